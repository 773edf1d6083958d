/*
 * Where a patch reads and where it writes: proves that these are different places before anything is
 * touched. PostgreSQL itself lets two servers stream into one tablespace directory without a word.
 */
#ifndef MOONRISE_PATCH_PLACES_H
#define MOONRISE_PATCH_PLACES_H

#include <stdbool.h>

struct err;
struct patch_spec;

/* ERR_REFUSED when two of the directories of the spec (data directories, where their pg_wal leads,
 * tablespaces) are one (device and inode) or one lies inside another; allowed is a side's own WAL or
 * tablespace inside its own data directory. A directory that does not exist yet counts as its nearest
 * existing parent's. With `source_too` false only the target's side is looked at. ERR_IO. */
int patch_places_check(const struct patch_spec *spec, bool source_too, struct err *e);

#endif
