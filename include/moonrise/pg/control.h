/*
 * global/pg_control: what a data directory says about itself.
 *
 * Layout: src/include/catalog/pg_control.h, ControlFileData; pg_control_version 1300 (PostgreSQL 13 to
 * 16). An unknown version is refused by name. Any thread.
 */
#ifndef MOONRISE_PG_CONTROL_H
#define MOONRISE_PG_CONTROL_H

#include "moonrise/pg/lsn.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

enum control_state { /* enum DBState */
                     CONTROL_STARTUP = 0,
                     CONTROL_SHUTDOWNED = 1,
                     CONTROL_SHUTDOWNED_IN_RECOVERY = 2,
                     CONTROL_SHUTDOWNING = 3,
                     CONTROL_IN_CRASH_RECOVERY = 4,
                     CONTROL_IN_ARCHIVE_RECOVERY = 5,
                     CONTROL_IN_PRODUCTION = 6,
};

#define CONTROL_FILE_BYTES       8192
#define CONTROL_CHECKPOINT_BYTES 88 /* struct CheckPoint, the data of a checkpoint record */

struct control {
    uint64_t system_identifier;
    uint32_t control_version;
    uint32_t catalog_version;
    enum control_state state;
    lsn_t checkpoint_lsn; /* start of the last checkpoint record */
    lsn_t redo_lsn;       /* where replay begins */
    uint32_t timeline;    /* of that checkpoint */
    uint32_t prev_timeline;
    bool full_page_writes;
    lsn_t min_recovery_lsn;
    uint32_t min_recovery_timeline;
    lsn_t backup_start_lsn;
    lsn_t backup_end_lsn;
    bool backup_end_required;
    bool wal_log_hints;
    int wal_level;
    int max_connections;
    int max_worker_processes;
    int max_wal_senders;
    int max_prepared_xacts;
    int max_locks_per_xact;
    uint32_t block_bytes;    /* of relation files */
    uint32_t segment_blocks; /* blocks in a full relation segment file */
    uint32_t wal_block_bytes;
    uint32_t wal_segment_bytes;
    uint32_t checksum_version;                         /* 0: data checksums off */
    int64_t checkpoint_time_s;                         /* since 1970 */
    uint8_t checkpoint_body[CONTROL_CHECKPOINT_BYTES]; /* the data of that checkpoint record */
};

/* Parses the image of a control file, verifying its CRC-32C. ERR_FORMAT (short, CRC, sizes that make no
 * sense), ERR_VERSION. */
int control_parse(struct control *out, const void *image, size_t len, struct err *e);

/* Reads and parses a control file. A torn read of a running server's file is read again, up to a second.
 * ERR_NOTFOUND, ERR_FORMAT, ERR_VERSION, ERR_IO. If `image` is not NULL it receives the
 * CONTROL_FILE_BYTES that were parsed. */
int control_read(struct control *out, const char *path, void *image, struct err *e);

/* "in production", as pg_controldata says it. */
const char *control_state_name(enum control_state state);

/* Blanks what two servers of one history may have differently in their copies of the same checkpoint: what
 * lies between the fields, and the next transaction id, which a standby keeps up to date (xlog_redo). */
void control_checkpoint_blank(uint8_t body[CONTROL_CHECKPOINT_BYTES]);

#endif
