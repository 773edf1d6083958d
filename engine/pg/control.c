#include "moonrise/pg/control.h"

#include "moonrise/base/bytes.h"
#include "moonrise/base/crc32c.h"
#include "moonrise/base/err.h"
#include "moonrise/base/io.h"

#include <string.h>
#include <time.h>

#define CONTROL_VERSION 1300

/* Offsets in ControlFileData as compilers lay it out where 64-bit numbers are aligned to 8 bytes; the unit
 * test holds each of them against pg_controldata. */
enum {
    AT_SYSTEM_IDENTIFIER = 0,
    AT_CONTROL_VERSION = 8,
    AT_CATALOG_VERSION = 12,
    AT_STATE = 16,
    AT_CHECKPOINT = 32,
    AT_REDO = 40,
    AT_TIMELINE = 48,
    AT_PREV_TIMELINE = 52,
    AT_FULL_PAGE_WRITES = 56,
    AT_NEXT_OID = 72,
    AT_OLDEST_MULTI_DB = 96,
    AT_CHECKPOINT_TIME = 104,
    AT_OLDEST_ACTIVE_XID = 120,
    AT_MIN_RECOVERY = 136,
    AT_MIN_RECOVERY_TIMELINE = 144,
    AT_BACKUP_START = 152,
    AT_BACKUP_END = 160,
    AT_BACKUP_END_REQUIRED = 168,
    AT_WAL_LEVEL = 172,
    AT_WAL_LOG_HINTS = 176,
    AT_MAX_CONNECTIONS = 180,
    AT_MAX_WORKER_PROCESSES = 184,
    AT_MAX_WAL_SENDERS = 188,
    AT_MAX_PREPARED_XACTS = 192,
    AT_MAX_LOCKS_PER_XACT = 196,
    AT_BLOCK_BYTES = 216,
    AT_SEGMENT_BLOCKS = 220,
    AT_WAL_BLOCK_BYTES = 224,
    AT_WAL_SEGMENT_BYTES = 228,
    AT_CHECKSUM_VERSION = 252,
    AT_CRC = 288,
    CONTROL_DATA_BYTES = 296,
};

static void
parse_checkpoint(struct control *out, const uint8_t *p)
{
    out->checkpoint_lsn = bytes_get64(p + AT_CHECKPOINT);
    out->redo_lsn = bytes_get64(p + AT_REDO);
    out->timeline = bytes_get32(p + AT_TIMELINE);
    out->prev_timeline = bytes_get32(p + AT_PREV_TIMELINE);
    out->full_page_writes = p[AT_FULL_PAGE_WRITES] != 0;
    out->checkpoint_time_s = (int64_t)bytes_get64(p + AT_CHECKPOINT_TIME);
    memcpy(out->checkpoint_body, p + AT_REDO, CONTROL_CHECKPOINT_BYTES);
}

void
control_checkpoint_blank(uint8_t body[CONTROL_CHECKPOINT_BYTES])
{
    memset(body + AT_FULL_PAGE_WRITES + 1 - AT_REDO, 0, AT_NEXT_OID - AT_FULL_PAGE_WRITES - 1);
    memset(body + AT_OLDEST_MULTI_DB + 4 - AT_REDO, 0, AT_CHECKPOINT_TIME - AT_OLDEST_MULTI_DB - 4);
    memset(body + AT_OLDEST_ACTIVE_XID + 4 - AT_REDO, 0, 4);
}

static void
parse_recovery(struct control *out, const uint8_t *p)
{
    out->min_recovery_lsn = bytes_get64(p + AT_MIN_RECOVERY);
    out->min_recovery_timeline = bytes_get32(p + AT_MIN_RECOVERY_TIMELINE);
    out->backup_start_lsn = bytes_get64(p + AT_BACKUP_START);
    out->backup_end_lsn = bytes_get64(p + AT_BACKUP_END);
    out->backup_end_required = p[AT_BACKUP_END_REQUIRED] != 0;
}

static void
parse_settings(struct control *out, const uint8_t *p)
{
    out->wal_level = (int)bytes_get32(p + AT_WAL_LEVEL);
    out->wal_log_hints = p[AT_WAL_LOG_HINTS] != 0;
    out->max_connections = (int)bytes_get32(p + AT_MAX_CONNECTIONS);
    out->max_worker_processes = (int)bytes_get32(p + AT_MAX_WORKER_PROCESSES);
    out->max_wal_senders = (int)bytes_get32(p + AT_MAX_WAL_SENDERS);
    out->max_prepared_xacts = (int)bytes_get32(p + AT_MAX_PREPARED_XACTS);
    out->max_locks_per_xact = (int)bytes_get32(p + AT_MAX_LOCKS_PER_XACT);
    out->block_bytes = bytes_get32(p + AT_BLOCK_BYTES);
    out->segment_blocks = bytes_get32(p + AT_SEGMENT_BLOCKS);
    out->wal_block_bytes = bytes_get32(p + AT_WAL_BLOCK_BYTES);
    out->wal_segment_bytes = bytes_get32(p + AT_WAL_SEGMENT_BYTES);
    out->checksum_version = bytes_get32(p + AT_CHECKSUM_VERSION);
}

static bool
power_of_two_within(uint32_t v, uint32_t least, uint32_t most)
{
    return v >= least && v <= most && (v & (v - 1)) == 0;
}

/* The bounds of configure's --with-blocksize, --with-wal-blocksize and of initdb's --wal-segsize. */
static int
check_sizes(const struct control *c, struct err *e)
{
    if (!power_of_two_within(c->block_bytes, 1024, 32768))
        return err_set(e, ERR_FORMAT, "control file: a block size of %u bytes", c->block_bytes);
    if (c->segment_blocks == 0 || c->segment_blocks > UINT32_MAX / 2)
        return err_set(e, ERR_FORMAT, "control file: %u blocks in a segment", c->segment_blocks);
    if (!power_of_two_within(c->wal_block_bytes, 1024, 65536))
        return err_set(e, ERR_FORMAT, "control file: a WAL block size of %u bytes",
                       c->wal_block_bytes);
    if (!power_of_two_within(c->wal_segment_bytes, 1u << 20, 1u << 30))
        return err_set(e, ERR_FORMAT, "control file: a WAL segment size of %u bytes",
                       c->wal_segment_bytes);
    return 0;
}

int
control_parse(struct control *out, const void *image, size_t len, struct err *e)
{
    const uint8_t *p = image;
    memset(out, 0, sizeof(*out));
    if (len < CONTROL_DATA_BYTES)
        return err_set(e, ERR_FORMAT, "control file: only %zu bytes", len);
    out->control_version = bytes_get32(p + AT_CONTROL_VERSION);
    /* The version first: elsewhere the checksum is in another place. */
    if (out->control_version != CONTROL_VERSION)
        return err_set(e, ERR_VERSION,
                       "control file version %u is not known (1300, PostgreSQL 13 to 16, is)",
                       out->control_version);
    if (crc32c(0, p, AT_CRC) != bytes_get32(p + AT_CRC))
        return err_set(e, ERR_FORMAT, "control file: wrong checksum");
    out->system_identifier = bytes_get64(p + AT_SYSTEM_IDENTIFIER);
    out->catalog_version = bytes_get32(p + AT_CATALOG_VERSION);
    uint32_t state = bytes_get32(p + AT_STATE);
    if (state > CONTROL_IN_PRODUCTION)
        return err_set(e, ERR_FORMAT, "control file: state %u", state);
    out->state = (enum control_state)state;
    parse_checkpoint(out, p);
    parse_recovery(out, p);
    parse_settings(out, p);
    return check_sizes(out, e);
}

static int
read_once(struct control *out, const char *path, void *image, struct err *e)
{
    struct str text = STR_INIT;
    int rc = io_read_file(&text, path, CONTROL_FILE_BYTES, e);
    if (rc == 0) {
        rc = control_parse(out, text.data, text.len, e);
        if (rc < 0)
            err_wrap(e, "%s", path);
    }
    if (rc == 0 && image) {
        memset(image, 0, CONTROL_FILE_BYTES);
        memcpy(image, text.data, text.len);
    }
    str_free(&text);
    return rc;
}

int
control_read(struct control *out, const char *path, void *image, struct err *e)
{
    enum { TRIES = 100 };
    const struct timespec pause = {.tv_nsec = 10 * 1000 * 1000};
    for (int i = 1;; i++) {
        int rc = read_once(out, path, image, e);
        /* The server writes it in place: a reader can see half of it. A torn version number is as
         * possible as a torn anything, but it never changes. */
        if (rc != ERR_FORMAT || i == TRIES)
            return rc;
        nanosleep(&pause, NULL);
    }
}

const char *
control_state_name(enum control_state state)
{
    switch (state) {
    case CONTROL_STARTUP:
        return "starting up";
    case CONTROL_SHUTDOWNED:
        return "shut down";
    case CONTROL_SHUTDOWNED_IN_RECOVERY:
        return "shut down in recovery";
    case CONTROL_SHUTDOWNING:
        return "shutting down";
    case CONTROL_IN_CRASH_RECOVERY:
        return "in crash recovery";
    case CONTROL_IN_ARCHIVE_RECOVERY:
        return "in archive recovery";
    case CONTROL_IN_PRODUCTION:
        return "in production";
    }
    return "unrecognized status code";
}
