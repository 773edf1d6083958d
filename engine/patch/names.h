/*
 * The names in one directory, sorted as strcmp does, and opening what lies below a directory without
 * being led out of it by a symbolic link. Any thread; a struct patch_names belongs to one.
 */
#ifndef MOONRISE_PATCH_NAMES_H
#define MOONRISE_PATCH_NAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

/* Start with zeros; about 4 bytes a name more than the names. */
struct patch_names {
    char *text;
    size_t len;
    size_t cap;
    uint32_t *at;
    uint32_t count;
    uint32_t at_cap;
};

/* Reads the directory behind `fd`, which stays open. ERR_IO. */
int patch_names_read(struct patch_names *n, int fd, struct err *e);
const char *patch_names_at(const struct patch_names *n, uint32_t i);
bool patch_names_has(const struct patch_names *n, const char *name);
void patch_names_free(struct patch_names *n);

/* Opens the directory `path` below `root_fd`; "" is root_fd itself, reopened. No component may be a
 * symbolic link, but that the first may be one with `follow_first`. Returns a descriptor, or -1 with
 * errno (ENOTDIR or ELOOP for a link). */
int patch_open_below(int root_fd, const char *path, bool follow_first);

/* "dir/name", or "name" when dir is empty; the caller frees it. */
char *patch_join(const char *dir, const char *name);

#endif
