#include "pages.h"

#include "moonrise/base/bytes.h"
#include "moonrise/base/err.h"
#include "moonrise/pg/version.h"

#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

enum {
    PAGE_LONG = 0x0002, /* XLP_LONG_HEADER */
    PAGE_FLAGS = 0x000F,
    PAGE_SHORT_BYTES = 24,
};

static bool
is_blank(const uint8_t *head, uint32_t len)
{
    for (uint32_t i = 0; i < len; i++)
        if (head[i])
            return false;
    return true;
}

static int
bad(lsn_t page, struct err *e, const char *what)
{
    char lsn[LSN_TEXT_BYTES];
    return err_set(e, ERR_FORMAT, "the server sent no valid WAL: %s in the page at %s", what,
                   lsn_format(lsn, page));
}

static int
check_long(const struct stream_pages *p, lsn_t page, struct err *e)
{
    if (bytes_get64(p->head + 24) != p->system_identifier)
        return bad(page, e, "another system identifier");
    if (bytes_get32(p->head + 32) != p->segment_bytes || bytes_get32(p->head + 36) != p->page_bytes)
        return bad(page, e, "other sizes");
    return 0;
}

static int
check_head(const struct stream_pages *p, lsn_t page, uint32_t len, struct err *e)
{
    const uint8_t *head = p->head;
    bool first = len == PAGE_HEAD_BYTES;
    /* After a switch the rest of the segment is zeroes, page headers and all. */
    if (!first && is_blank(head, len))
        return 0;
    if (version_of_wal_magic(bytes_get16(head)) != p->major)
        return bad(page, e, "the magic number of another version");
    if (bytes_get16(head + 2) & ~PAGE_FLAGS)
        return bad(page, e, "unknown flags");
    if (bytes_get64(head + 8) != page)
        return bad(page, e, "another address");
    uint32_t timeline = bytes_get32(head + 4);
    if (timeline == 0 || timeline > p->timeline)
        return bad(page, e, "another timeline");
    if (first != !!(bytes_get16(head + 2) & PAGE_LONG))
        return bad(page, e, "wrong kind of header");
    return first ? check_long(p, page, e) : 0;
}

int
pages_take(struct stream_pages *p, const uint8_t *bytes, size_t len, struct err *e)
{
    while (len > 0) {
        uint32_t at = (uint32_t)(p->at % p->page_bytes);
        lsn_t page = p->at - at;
        uint32_t head = page % p->segment_bytes == 0 ? PAGE_HEAD_BYTES : PAGE_SHORT_BYTES;
        uint32_t room = at < head ? head - at : p->page_bytes - at;
        uint32_t n = len < room ? (uint32_t)len : room;
        if (at < head) {
            memcpy(p->head + at, bytes, n);
            int rc = at + n == head ? check_head(p, page, head, e) : 0;
            if (rc < 0)
                return rc;
        }
        p->at += n;
        bytes += n;
        len -= n;
    }
    return 0;
}
