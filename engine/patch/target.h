/*
 * The target's directories: opens them so that no link leads out of them, makes those that the source
 * has, and the links to pg_wal and to the tablespaces.
 */
#ifndef MOONRISE_PATCH_TARGET_H
#define MOONRISE_PATCH_TARGET_H

#include <stdbool.h>
#include <stdint.h>

struct err;
struct patch_dir;
struct patch_list;
struct patch_progress;
struct patch_spec;

struct patch_target {
    const struct patch_spec *spec;
    int *roots; /* the data directory, then each tablespace; -1 for one that the source has not */
    uint32_t root_count;
};

/* Opens the data directory, which must exist. ERR_NOTFOUND, ERR_IO. */
int patch_target_open(struct patch_target *t, const struct patch_spec *spec, struct err *e);

/* Makes all directories and links of the list. A file or link in the place of a directory is removed,
 * except for the link of pg_wal. ERR_IO, ERR_SPACE, ERR_PERMISSION. */
int patch_target_prepare(struct patch_target *t, const struct patch_list *l, struct err *e);

/* Opens a directory of the list on the target; -1 with errno. */
int patch_target_dir(const struct patch_target *t, const struct patch_dir *d);

/* The file's full path, for messages; the caller frees it. */
char *patch_target_path(const struct patch_target *t, uint32_t root, const char *dir,
                        const char *name);

/* Removes whatever stands at `name` in the directory behind `fd`, with all that is below, following no
 * link. What datadir_classify says to leave alone is left, and the directories above it. `path` is the
 * name as datadir_classify knows it. Files are counted in p (or NULL). ERR_IO, ERR_PERMISSION. */
int patch_remove(int fd, const char *name, const char *path, struct patch_progress *p,
                 struct err *e);

void patch_target_close(struct patch_target *t);

#endif
