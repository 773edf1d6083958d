/*
 * The list of the source's files: one byte string for all of them, about 17 bytes a relation file, so
 * that a million files take 17 MB. Built by a source through patch/source.h, then read by the driver.
 *
 * An entry is: flags (1 byte), size and mode (LEB128), name, NUL. It is named by its offset, which stays
 * valid. The list does not change after patch_list_sort, except for the flags: a worker sets those of
 * the one entry it works on, and nobody reads them before the workers have been joined.
 */
#ifndef MOONRISE_PATCH_LIST_H
#define MOONRISE_PATCH_LIST_H

#include "moonrise/patch/source.h"

struct patch_dir {
    const char *path; /* relative to its root */
    uint32_t root;
    uint32_t mode;
    enum patch_dir_kind kind;
    uint32_t first; /* its entries: from `first` up to `end` */
    uint32_t end;
};

struct patch_entry {
    const char *name;
    uint64_t size;
    uint32_t mode;
    uint32_t flags;
    uint32_t next; /* where the entry after it begins */
};

/* Ends the building: orders the directories, parents first. ERR_FORMAT when one is listed twice or lacks
 * its parent. */
int patch_list_sort(struct patch_list *l, struct err *e);

uint32_t patch_list_dirs(const struct patch_list *l);
const struct patch_dir *patch_list_dir_at(const struct patch_list *l, uint32_t i);

/* The directory of that name, or NULL. */
const struct patch_dir *patch_list_find_dir(const struct patch_list *l, uint32_t root,
                                            const char *path);

/* Decodes the entry at `at`. */
void patch_list_entry(const struct patch_list *l, uint32_t at, struct patch_entry *out);

/* Sets a flag of an entry. */
void patch_list_mark(struct patch_list *l, uint32_t at, enum patch_entry_flag flag);

/* Sums over all entries: bytes of the files that are copied, and how many. */
uint64_t patch_list_bytes(const struct patch_list *l);
uint64_t patch_list_files(const struct patch_list *l);

#endif
