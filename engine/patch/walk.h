/*
 * Lists the files of a data directory of this host for a patch: what PostgreSQL's own base backup would
 * send (src/backend/backup/basebackup.c, sendDir, PostgreSQL 15), with these decisions:
 *
 * - Directories whose contents are the instance's own are listed as empty ones (datadir_classify).
 * - Of an unlogged relation only the init fork is listed: the others are made from it when recovery ends.
 * - Symbolic links are followed nowhere but in pg_tblspc, where a link stands for a tablespace of the
 *   spec. Other links and special files are listed as such and not copied.
 * - Of a tablespace's directory only the PG_<version>_<catalog> folders count; it may hold others' files.
 * - A tablespace, or a WAL directory, inside of the data directory is not listed as part of it.
 * - What vanishes meanwhile is left out.
 */
#ifndef MOONRISE_PATCH_WALK_H
#define MOONRISE_PATCH_WALK_H

#include <stdbool.h>
#include <stdint.h>

struct err;
struct patch_list;
struct patch_spec;

/* `roots` are descriptors of the data directory and of each tablespace of the spec, -1 for one that the
 * source has no link to. ERR_REFUSED for a tablespace
 * that the spec does not map, ERR_FORMAT, ERR_IO, ERR_CANCELLED by the spec's flag. */
int patch_walk(struct patch_list *l, const struct patch_spec *spec, const int *roots,
               struct err *e);

/* The directory as datadir_classify knows it: a tablespace's begins with "pg_tblspc/<oid>". The caller
 * frees it. */
char *patch_class_path(const struct patch_spec *spec, uint32_t root, const char *path);

/* Whether a name at the top of a tablespace's directory belongs to PostgreSQL: "PG_15_202209061". */
bool patch_is_version_dir(const char *name);

#endif
