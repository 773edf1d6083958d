/*
 * The messages of a WAL stream: what a walsender sends inside of CopyData, and what it is answered. Format:
 * PostgreSQL's protocol, "Streaming Replication Protocol"; numbers are big-endian. Private to engine/stream.
 * Any thread.
 */
#ifndef MOONRISE_ENGINE_STREAM_MESSAGE_H
#define MOONRISE_ENGINE_STREAM_MESSAGE_H

#include "moonrise/pg/lsn.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

enum message_kind { MESSAGE_WAL, MESSAGE_KEEPALIVE };

struct stream_message {
    enum message_kind kind;
    lsn_t lsn;            /* WAL: where the bytes begin */
    const uint8_t *bytes; /* WAL; points into what was parsed */
    size_t len;
    bool reply; /* keepalive: the server wants a status at once, or takes us for dead */
};

/* Reads one message. ERR_PROTOCOL: too short, or of an unknown kind. */
int message_read(struct stream_message *out, const void *bytes, size_t len, struct err *e);

struct stream_status {
    lsn_t written_lsn;
    lsn_t flushed_lsn; /* 0: not told; such a receiver never counts as synchronous */
    bool ping;         /* the server shall answer */
};

/* Writes a status update of STATUS_BYTES. */
#define STATUS_BYTES 34
void message_status(uint8_t out[STATUS_BYTES], const struct stream_status *status);

#endif
