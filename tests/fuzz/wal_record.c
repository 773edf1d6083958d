#include "../lib/fuzz.h"

#include "moonrise/base/err.h"
#include "moonrise/wal/record.h"

#include <string.h>

enum { FUZZ_PAGE_BYTES = 1024, FUZZ_SEGMENT_BYTES = 1 << 20 };

struct fuzz_wal {
    const uint8_t *bytes;
    size_t len;
};

/* The input is the WAL from its beginning. */
static int
fuzz_wal_page(const struct wal_source *s, lsn_t page_lsn, void *buf, struct err *e)
{
    const struct fuzz_wal *w = s->place;
    if (page_lsn >= w->len)
        return err_set(e, ERR_NOTFOUND, "no more WAL");
    memset(buf, 0, FUZZ_PAGE_BYTES);
    size_t left = w->len - (size_t)page_lsn;
    memcpy(buf, w->bytes + page_lsn, left < FUZZ_PAGE_BYTES ? left : FUZZ_PAGE_BYTES);
    return 0;
}

static void
fuzz_wal_record(const uint8_t *bytes, size_t len)
{
    const struct fuzz_wal wal = {.bytes = bytes, .len = len};
    const struct wal_source source = {
        .read_page = fuzz_wal_page,
        .place = &wal,
        .timeline = 1,
        .page_bytes = FUZZ_PAGE_BYTES,
        .segment_bytes = FUZZ_SEGMENT_BYTES,
    };
    static const lsn_t starts[] = {40, 0, 3, 1023, 1048, 2000};
    for (size_t i = 0; i < sizeof(starts) / sizeof(starts[0]); i++) {
        struct wal_record r;
        struct err e;
        int rc = wal_record_read(&r, &source, starts[i], &e);
        must(rc == ERR_FORMAT || rc == ERR_NOTFOUND || (rc == 0 && r.end_lsn > r.lsn));
    }
}

FUZZ_DRIVER(fuzz_wal_record);
