#include "message.h"

#include "moonrise/base/err.h"
#include "moonrise/loop/loop.h"

#include <string.h>

enum {
    WAL_HEAD_BYTES = 25,      /* kind, begin, end of WAL, time */
    KEEPALIVE_HEAD_BYTES = 18 /* kind, end of WAL, time, reply */
};

/* From 1970 to 2000, where PostgreSQL's time begins. */
#define POSTGRES_EPOCH_MS (INT64_C(946684800) * 1000)

static uint64_t
get64(const uint8_t *p)
{
    uint64_t v = 0;
    for (int i = 0; i < 8; i++)
        v = v << 8 | p[i];
    return v;
}

static void
put64(uint8_t *p, uint64_t v)
{
    for (int i = 7; i >= 0; i--, v >>= 8)
        p[i] = (uint8_t)v;
}

int
message_read(struct stream_message *out, const void *bytes, size_t len, struct err *e)
{
    const uint8_t *p = bytes;
    memset(out, 0, sizeof(*out));
    if (len >= WAL_HEAD_BYTES && p[0] == 'w') {
        *out = (struct stream_message){.kind = MESSAGE_WAL,
                                       .lsn = get64(p + 1),
                                       .bytes = p + WAL_HEAD_BYTES,
                                       .len = len - WAL_HEAD_BYTES};
        return 0;
    }
    if (len >= KEEPALIVE_HEAD_BYTES && p[0] == 'k') {
        out->kind = MESSAGE_KEEPALIVE;
        out->reply = p[KEEPALIVE_HEAD_BYTES - 1] != 0;
        return 0;
    }
    return err_set(e, ERR_PROTOCOL,
                   "the server sent a message of kind %d and %zu bytes into the WAL stream",
                   len > 0 ? p[0] : -1, len);
}

void
message_status(uint8_t out[STATUS_BYTES], const struct stream_status *status)
{
    out[0] = 'r';
    put64(out + 1, status->written_lsn);
    put64(out + 9, status->flushed_lsn);
    put64(out + 17, 0); /* nothing is replayed here */
    put64(out + 25, (uint64_t)((wall_ms() - POSTGRES_EPOCH_MS) * 1000));
    out[33] = status->ping;
}
