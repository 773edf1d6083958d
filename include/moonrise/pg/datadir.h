/*
 * What is in a data directory and what a copy of it must leave alone.
 *
 * The lists follow src/backend/backup/basebackup.c (PostgreSQL 15: excludeDirContents, excludeFiles,
 * noChecksumFiles) and add the files that are moonrise's or this instance's own. Any thread.
 *
 * Own (SKIP): moonrise.*, postgresql.auto.conf (merged by whoever configures), the signal files,
 * postmaster.pid and .opts, sockets, log/, and a file system's lost+found where one is mounted (the top and
 * pg_wal). postgresql.conf, pg_hba.conf and pg_ident.conf are data
 * (COPY): the pair's common configuration. What differs inside a pair (port, sockets) stands in
 * moonrise.conf, which postgresql.conf includes last. Below a DATADIR_EMPTY_DIR everything else is DROP.
 */
#ifndef MOONRISE_PG_DATADIR_H
#define MOONRISE_PG_DATADIR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum datadir_class {
    DATADIR_COPY,      /* part of the data: made equal */
    DATADIR_EMPTY_DIR, /* a directory that exists on both sides and whose contents are not copied */
    DATADIR_SKIP,      /* neither copied nor deleted on the target: it is the instance's own */
    DATADIR_DROP,      /* not copied, and deleted on the target if it is there */
    DATADIR_CONTROL,   /* global/pg_control: last */
    DATADIR_RELATION,  /* a relation fork: compared and copied block by block */
};

/* Classifies `path`, relative to the data directory, without a leading slash ("base/5/1259",
 * "pg_tblspc/16385/PG_15_202209061/5/2619.1"). */
enum datadir_class datadir_classify(const char *path, bool is_dir);

/* Parts of a relation file name. */
struct relfile {
    uint32_t tablespace; /* 0: the database's default or global */
    uint32_t database;   /* 0: global */
    uint32_t relation;   /* file node */
    uint32_t segment;    /* the number after the dot, else 0 */
    char fork;           /* 'm'ain, 'f'ree space map, 'v'isibility map, 'i'nit */
    bool temporary;      /* t<backend>_<node> */
};

/* Parses a path like the above; false when it is no relation file. */
bool relfile_parse(struct relfile *out, const char *path);

/* Whether `path` is a main fork or map of an unlogged relation, which a copy leaves out: its directory
 * holds an init fork of the same relation. `names` are the names in that directory, sorted by strcmp.
 * The init fork itself is copied (false). */
bool datadir_unlogged(const char *path, const char *const *names, size_t count);

/* The mode of a new file in a data directory: the group reads it where it may read the directory (initdb
 * --allow-group-access), as its own server does it. file_perm.c: SetDataDirectoryCreatePerm. */
mode_t datadir_file_mode(const char *datadir);

#endif
