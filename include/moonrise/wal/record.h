/*
 * One record of the write-ahead log: found at a known position, verified, measured.
 *
 * Formats: src/include/access/xlogrecord.h and xlog_internal.h, PostgreSQL 13 to 16. Any thread.
 */
#ifndef MOONRISE_WAL_RECORD_H
#define MOONRISE_WAL_RECORD_H

#include "moonrise/pg/control.h"
#include "moonrise/pg/lsn.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

enum wal_rmgr { WAL_RMGR_XLOG = 0 };

/* xl_info of WAL_RMGR_XLOG, without the low four bits. */
#define WAL_XLOG_CHECKPOINT_SHUTDOWN 0x00
#define WAL_XLOG_CHECKPOINT_ONLINE   0x10
#define WAL_XLOG_SWITCH              0x40
#define WAL_XLOG_END_OF_RECOVERY     0x90

/* How much of a record's data is handed out: all of a checkpoint's. */
#define WAL_BODY_BYTES 96

struct wal_record {
    lsn_t lsn;
    lsn_t end_lsn;  /* where the next one can begin: what a server that has flushed it reports */
    lsn_t prev_lsn; /* of the record before */
    uint32_t bytes; /* header and data, without what pages put in between */
    uint32_t xid;
    uint8_t rmgr;
    uint8_t info;                 /* the resource manager's four high bits only */
    uint8_t body[WAL_BODY_BYTES]; /* what follows the header, as far as it has room; then zeroes */
};

/* Where WAL pages come from. */
struct wal_source {
    /* Reads the page that begins at `page_lsn` into buf. ERR_NOTFOUND when it is not there. */
    int (*read_page)(const struct wal_source *s, lsn_t page_lsn, void *buf, struct err *e);
    const void *place;          /* the source's own */
    uint64_t system_identifier; /* 0: not compared */
    uint32_t timeline;          /* pages of later timelines are refused */
    uint32_t page_bytes;
    uint32_t segment_bytes;
};

/* Reads the record that begins at `lsn`, following it over pages and segments, and verifies page headers
 * and its CRC. ERR_FORMAT: there is no valid record; ERR_NOTFOUND: a segment is missing. */
int wal_record_read(struct wal_record *out, const struct wal_source *source, lsn_t lsn,
                    struct err *e);

/* Whether the WAL ends before the byte at `lsn`: its page was never written, or no valid record of that page
 * reaches it. ERR_IO, ERR_PERMISSION. */
int wal_ends_before(bool *out, const struct wal_source *source, lsn_t lsn, struct err *e);

/* Makes *s read the segment files of timeline s->timeline in `wal_dir` (borrowed). The caller has set
 * the fields from system_identifier on. */
void wal_source_dir(struct wal_source *s, const char *wal_dir);

/* The data of a checkpoint record, as pg_control has it: struct CheckPoint. False for any other record. */
bool wal_checkpoint_body(uint8_t out[CONTROL_CHECKPOINT_BYTES], const struct wal_record *r);

/* The end of the last checkpoint record of a stopped data directory: what a mirror must have flushed
 * before it takes over (SAFETY.md, "Handing over"). Reads pg_control and pg_wal. ERR_REFUSED: the control
 * file does not say "shut down" (as a primary); ERR_FORMAT: the record there is no
 * shutdown checkpoint. */
int wal_shutdown_end(struct wal_record *out, const char *datadir, struct err *e);

#endif
