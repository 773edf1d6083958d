#include "moonrise/wal/record.h"

#include "moonrise/base/bytes.h"
#include "moonrise/base/crc32c.h"
#include "moonrise/base/err.h"
#include "moonrise/base/str.h"
#include "moonrise/pg/version.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum {
    PAGE_CONTRECORD = 0x0001, /* XLP_FIRST_IS_CONTRECORD */
    PAGE_LONG = 0x0002,       /* XLP_LONG_HEADER */
    PAGE_OVERWRITE = 0x0008,  /* XLP_FIRST_IS_OVERWRITE_CONTRECORD */
    PAGE_FLAGS = 0x000F,
    PAGE_SHORT_BYTES = 24,
    PAGE_LONG_BYTES = 40,
    RECORD_HEAD_BYTES = 24,
    RECORD_CRC_AT = 20,
    RECORD_MAX_BYTES = 1020 * 1024 * 1024, /* XLogRecordMaxSize of PostgreSQL 16 */
};

/* A cursor over the bytes of one record. */
struct walk {
    const struct wal_source *source;
    lsn_t lsn;     /* of the record, for messages */
    lsn_t page;    /* the page in buf */
    uint32_t at;   /* next byte in it */
    uint32_t left; /* bytes of the record not yet handed out */
    uint8_t *buf;
};

static int
bad(const struct walk *w, struct err *e, const char *what)
{
    char lsn[LSN_TEXT_BYTES], page[LSN_TEXT_BYTES];
    return err_set(e, ERR_FORMAT, "no valid WAL record at %s: %s in the page at %s",
                   lsn_format(lsn, w->lsn), what, lsn_format(page, w->page));
}

/* Only the first page of a segment has a long header, and it always has. */
static int
check_long_header(const struct walk *w, struct err *e)
{
    const struct wal_source *s = w->source;
    bool first = w->page % s->segment_bytes == 0;
    bool is_long = bytes_get16(w->buf + 2) & PAGE_LONG;
    if (first != is_long)
        return bad(w, e, "wrong kind of header");
    if (!is_long)
        return 0;
    if (s->system_identifier && bytes_get64(w->buf + 24) != s->system_identifier)
        return bad(w, e, "another system identifier");
    if (bytes_get32(w->buf + 32) != s->segment_bytes || bytes_get32(w->buf + 36) != s->page_bytes)
        return bad(w, e, "other sizes");
    return 0;
}

static int
load_page(struct walk *w, lsn_t page, struct err *e)
{
    const struct wal_source *s = w->source;
    w->page = page;
    int rc = s->read_page(s, page, w->buf, e);
    if (rc < 0)
        return rc;
    if (!version_of_wal_magic(bytes_get16(w->buf)))
        return bad(w, e, "unknown magic number");
    if (bytes_get16(w->buf + 2) & ~PAGE_FLAGS)
        return bad(w, e, "unknown flags");
    if (bytes_get64(w->buf + 8) != page)
        return bad(w, e, "another address");
    uint32_t timeline = bytes_get32(w->buf + 4);
    if (timeline == 0 || timeline > s->timeline)
        return bad(w, e, "another timeline");
    w->at = bytes_get16(w->buf + 2) & PAGE_LONG ? PAGE_LONG_BYTES : PAGE_SHORT_BYTES;
    return check_long_header(w, e);
}

/* The next page must say that it continues our record, and how much of it is left. */
static int
next_page(struct walk *w, struct err *e)
{
    int rc = load_page(w, w->page + w->source->page_bytes, e);
    if (rc < 0)
        return rc;
    uint16_t flags = bytes_get16(w->buf + 2);
    if (flags & PAGE_OVERWRITE || !(flags & PAGE_CONTRECORD))
        return bad(w, e, "no continuation");
    if (bytes_get32(w->buf + 16) != w->left)
        return bad(w, e, "another length of the continuation");
    return 0;
}

/* Hands out the next `len` bytes: copied to `copy` if that is not NULL, added to *crc if that is not. */
static int
take_bytes(struct walk *w, uint32_t len, uint8_t *copy, uint32_t *crc, struct err *e)
{
    while (len > 0) {
        if (w->at == w->source->page_bytes) {
            int rc = next_page(w, e);
            if (rc < 0)
                return rc;
        }
        uint32_t n = w->source->page_bytes - w->at;
        n = n < len ? n : len;
        if (copy)
            memcpy(copy, w->buf + w->at, n);
        if (crc)
            *crc = crc32c(*crc, w->buf + w->at, n);
        copy = copy ? copy + n : NULL;
        w->at += n;
        w->left -= n;
        len -= n;
    }
    return 0;
}

/* Where the cursor stands now, moved up to where the next record may begin. */
static lsn_t
end_of(const struct walk *w, const struct wal_record *r)
{
    lsn_t end = w->page + ((w->at + UINT32_C(7)) & ~UINT32_C(7));
    /* Nothing follows a switch in its segment: xlogreader.c moves on likewise. */
    if (r->rmgr == WAL_RMGR_XLOG && r->info == WAL_XLOG_SWITCH && end % w->source->segment_bytes)
        end += w->source->segment_bytes - end % w->source->segment_bytes;
    return end;
}

static int
read_head(struct wal_record *out, struct walk *w, uint8_t *head, struct err *e)
{
    /* The length stands in the first four bytes, which never cross a page: records are aligned to 8. */
    out->bytes = bytes_get32(w->buf + w->at);
    if (out->bytes < RECORD_HEAD_BYTES || out->bytes > RECORD_MAX_BYTES)
        return bad(w, e, "an impossible length");
    w->left = out->bytes;
    int rc = take_bytes(w, RECORD_HEAD_BYTES, head, NULL, e);
    if (rc < 0)
        return rc;
    out->xid = bytes_get32(head + 4);
    out->prev_lsn = bytes_get64(head + 8);
    out->info = head[16] & 0xF0;
    out->rmgr = head[17];
    if (out->prev_lsn >= out->lsn)
        return bad(w, e, "a previous record that is none");
    return 0;
}

static int
read_record(struct wal_record *out, struct walk *w, struct err *e)
{
    lsn_t page = w->lsn - w->lsn % w->source->page_bytes;
    uint32_t at = (uint32_t)(w->lsn - page);
    int rc = load_page(w, page, e);
    if (rc < 0)
        return rc;
    if (at < w->at || at % 8 != 0)
        return bad(w, e, "no place for a record");
    w->at = at;
    uint8_t head[RECORD_HEAD_BYTES];
    rc = read_head(out, w, head, e);
    if (rc < 0)
        return rc;
    uint32_t crc = 0;
    rc = take_bytes(w, w->left < WAL_BODY_BYTES ? w->left : WAL_BODY_BYTES, out->body, &crc, e);
    if (rc == 0)
        rc = take_bytes(w, w->left, NULL, &crc, e);
    if (rc < 0)
        return rc;
    if (crc32c(crc, head, RECORD_CRC_AT) != bytes_get32(head + RECORD_CRC_AT))
        return bad(w, e, "a wrong checksum");
    out->end_lsn = end_of(w, out);
    return 0;
}

int
wal_record_read(struct wal_record *out, const struct wal_source *source, lsn_t lsn, struct err *e)
{
    must(source->page_bytes > PAGE_LONG_BYTES && source->segment_bytes >= source->page_bytes);
    memset(out, 0, sizeof(*out));
    out->lsn = lsn;
    struct walk w = {.source = source, .lsn = lsn, .buf = mem_alloc(source->page_bytes)};
    int rc = read_record(out, &w, e);
    free(w.buf);
    return rc;
}

/* Where the first record of a page begins; past the page when none does. */
static int
first_record(lsn_t *out, const struct wal_source *source, lsn_t page, struct err *e)
{
    struct walk w = {.source = source, .lsn = page, .buf = mem_alloc(source->page_bytes)};
    int rc = load_page(&w, page, e);
    if (rc == 0) {
        bool goes_on = bytes_get16(w.buf + 2) & PAGE_CONTRECORD;
        uint64_t rest = goes_on ? bytes_get32(w.buf + 16) : 0;
        *out = page + w.at + ((rest + 7) & ~UINT64_C(7));
    }
    free(w.buf);
    return rc;
}

int
wal_ends_before(bool *out, const struct wal_source *source, lsn_t lsn, struct err *e)
{
    struct wal_record record;
    lsn_t page = lsn - lsn % source->page_bytes, at = 0;
    int rc = first_record(&at, source, page, e);
    *out = rc == ERR_NOTFOUND || rc == ERR_FORMAT;
    if (rc < 0)
        return *out ? 0 : rc;
    while (at <= lsn && (rc = wal_record_read(&record, source, at, e)) == 0)
        at = record.end_lsn;
    *out = at <= lsn;
    return rc == 0 || rc == ERR_NOTFOUND || rc == ERR_FORMAT ? 0 : rc;
}

/* A record without blocks: XLR_BLOCK_ID_DATA_SHORT, the length, the data (xlogrecord.h). */
bool
wal_checkpoint_body(uint8_t out[CONTROL_CHECKPOINT_BYTES], const struct wal_record *r)
{
    enum { DATA_SHORT = 255 };
    if (r->rmgr != WAL_RMGR_XLOG ||
        (r->info != WAL_XLOG_CHECKPOINT_SHUTDOWN && r->info != WAL_XLOG_CHECKPOINT_ONLINE) ||
        r->bytes != RECORD_HEAD_BYTES + 2 + CONTROL_CHECKPOINT_BYTES || r->body[0] != DATA_SHORT ||
        r->body[1] != CONTROL_CHECKPOINT_BYTES)
        return false;
    memcpy(out, r->body + 2, CONTROL_CHECKPOINT_BYTES);
    return true;
}
