/* Whatever a server sends into a WAL stream, in messages that the first bytes cut: no bad access, and nothing
 * is taken for WAL that does not follow what came before. */
#include "../lib/fuzz.h"

#include "../../engine/stream/directory.h"
#include "../../engine/stream/message.h"
#include "../../engine/stream/pages.h"
#include "moonrise/base/err.h"

#define FUZZ_STREAM_PAGE_BYTES    1024
#define FUZZ_STREAM_SEGMENT_BYTES (1 << 20)

static void
fuzz_stream(const uint8_t *bytes, size_t len)
{
    struct stream_pages p = {.system_identifier = 7,
                             .page_bytes = FUZZ_STREAM_PAGE_BYTES,
                             .segment_bytes = FUZZ_STREAM_SEGMENT_BYTES,
                             .timeline = 2,
                             .major = 15,
                             .at = FUZZ_STREAM_SEGMENT_BYTES};
    struct stream_message m;
    struct err e;
    int rc = 0;
    size_t piece = len > 0 ? (size_t)bytes[0] * 9 + 1 : 1;
    for (size_t at = 1; at < len && rc == 0; at += piece) {
        size_t n = len - at < piece ? len - at : piece;
        lsn_t before = p.at;
        rc = message_read(&m, bytes + at, n, &e);
        if (rc == 0 && m.kind == MESSAGE_WAL)
            rc = pages_take(&p, m.bytes, m.len, &e);
        must(p.at - before <= n);
    }
}

FUZZ_DRIVER(fuzz_stream);

/* The names of a directory's files. */
static void
fuzz_segment_name(const uint8_t *bytes, size_t len)
{
    struct segment_name n;
    char name[64];
    size_t used = len < sizeof(name) - 1 ? len : sizeof(name) - 1;
    for (size_t i = 0; i < used; i++)
        name[i] = (char)bytes[i];
    name[used] = '\0';
    if (segment_name_read(&n, name, FUZZ_STREAM_SEGMENT_BYTES))
        must(n.timeline > 0 && n.lsn % FUZZ_STREAM_SEGMENT_BYTES == 0);
}
