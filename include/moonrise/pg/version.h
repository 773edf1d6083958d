/*
 * Which PostgreSQL this is, and whether moonrise knows it: major versions 13 to 16, all of which have
 * pg_control_version 1300.
 */
#ifndef MOONRISE_PG_VERSION_H
#define MOONRISE_PG_VERSION_H

#include <stdbool.h>
#include <stdint.h>

struct err;

#define VERSION_OLDEST 13
#define VERSION_NEWEST 16

/* 0 when the major version is known, else ERR_VERSION with its name. */
int version_check(int major, struct err *e);

/* The major version in DATADIR/PG_VERSION. ERR_NOTFOUND, ERR_FORMAT, ERR_VERSION (not one we know). */
int version_read(int *major_out, const char *datadir, struct err *e);

/* "15.13" of 150013; buf has VERSION_TEXT_BYTES. */
#define VERSION_TEXT_BYTES 24
char *version_text(char *buf, int version_num);

/* Whether a server of this number (150013) lets commits wait as soon as it accepts them: from 13.21,
 * 14.18, 15.13, 16.9 on. Older minors acknowledge commits between the start and the checkpointer's
 * first look at synchronous_standby_names. */
bool version_sync_from_start(int version_num);

/* The major version of a WAL page's magic number (xlog_internal.h), 0 when it is unknown. */
int version_of_wal_magic(uint16_t magic);

#endif
