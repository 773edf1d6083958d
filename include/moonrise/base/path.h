/*
 * Names of files, as text. What is returned as `char *` was allocated and is freed with free().
 */
#ifndef MOONRISE_BASE_PATH_H
#define MOONRISE_BASE_PATH_H

#include <stdbool.h>

struct err;

/* "dir/name" with exactly one slash between; `name` alone when it is absolute or `dir` is empty. */
char *path_join(const char *dir, const char *name);

/* The directory a name is in: "/a" of "/a/b", "." of "b", "/" of "/a". Slashes at the end do not count. */
char *path_dir(const char *path);

/* What follows the last slash; points into `path`. */
const char *path_base(const char *path);

/* The absolute path without symbolic links, "." and "..". ERR_NOTFOUND when it does not exist. */
int path_canonical(char **out, const char *path, struct err *e);

/* Whether it could be canonical: absolute, and no part of it is empty, "." or "..". For names from outside. */
bool path_is_plain(const char *path);

/* Whether `path`, by whatever links, is the canonical path `real`. */
bool path_leads_to(const char *path, const char *real);

/* Whether `path` is `dir` or lies below it. Compares text: give canonical paths. */
bool path_inside(const char *dir, const char *path);

#endif
