/*
 * Timelines: the .history files of pg_wal.
 *
 * Format: src/backend/access/transam/timeline.c (readTimeLineHistory). Each line names a timeline and the
 * position up to which it is part of the history; the file's own timeline follows without an end.
 */
#ifndef MOONRISE_PG_TIMELINE_H
#define MOONRISE_PG_TIMELINE_H

#include "moonrise/pg/lsn.h"

#include <stddef.h>
#include <stdint.h>

struct err;

#define TIMELINE_NO_END UINT64_MAX

struct timeline_span {
    uint32_t timeline;
    lsn_t begin; /* 0 for the first */
    lsn_t end;   /* where the next one begins; TIMELINE_NO_END for the last */
};

struct timeline_history {
    struct timeline_span *spans; /* oldest first */
    size_t count;
};

/* Parses the text of the history file of `timeline`; an empty text gives the one span of a timeline
 * without a past. ERR_FORMAT. Free with timeline_history_done. */
int timeline_parse(struct timeline_history *out, uint32_t timeline, const char *text, size_t len,
                   struct err *e);

/* Reads WAL_DIR/<timeline>.history; timeline 1 has none, for others a missing file is ERR_NOTFOUND. */
int timeline_read(struct timeline_history *out, const char *wal_dir, uint32_t timeline,
                  struct err *e);

/* "00000002.history" */
#define TIMELINE_NAME_BYTES 17
char *timeline_file_name(char *buf, uint32_t timeline);

/* The highest timeline of which WAL_DIR has a history file: it outlives every restart, and a promotion
 * writes it before its first record. 1 when there is none. ERR_IO. */
int timeline_newest(uint32_t *out, const char *wal_dir, struct err *e);

/* The timeline that a position belongs to in this history (a position on a boundary belongs to the
 * older one: it is the end of what was written there). */
uint32_t timeline_at(const struct timeline_history *h, lsn_t lsn);

/* Where two histories part: the last timeline both have and the position up to which it is common
 * (TIMELINE_NO_END when they are the same). ERR_NOTFOUND when they share nothing. By numbers only:
 * SAFETY.md rule 9 says why that does not prove a common content. */
int timeline_fork(struct timeline_span *out, const struct timeline_history *a,
                  const struct timeline_history *b, struct err *e);

void timeline_history_done(struct timeline_history *h);

#endif
