/*
 * Frames: how messages and bytes are cut out of a channel. Any thread.
 *
 *   magic  4  89 4D 52 01
 *   length 4  bytes of the payload, at most FRAME_PAYLOAD_BYTES
 *   id     4  the call it belongs to, 0 for none
 *   type   1  enum frame_type
 *   flags  1  0; a receiver refuses flags that it does not know
 *   zero   2
 *   crc    4  CRC-32C of the 16 bytes before and the payload
 *   payload
 *
 * All numbers are little-endian. Before the first frame up to 64 KiB of anything else are skipped, since
 * a login may print a greeting; after it every byte counts.
 */
#ifndef MOONRISE_WIRE_FRAME_H
#define MOONRISE_WIRE_FRAME_H

#include "moonrise/base/str.h"

#include <stdbool.h>
#include <stdint.h>

struct err;

#define FRAME_HEAD_BYTES    20
#define FRAME_PAYLOAD_BYTES (4 * 1024 * 1024)
#define FRAME_SKIP_BYTES    (64 * 1024)

enum frame_type {
    FRAME_HELLO = 1, /* {protocol, version}: the first of each side */
    FRAME_CALL,      /* {op, args} */
    FRAME_CANCEL,    /* empty: the call is withdrawn */
    FRAME_PROGRESS,  /* any object */
    FRAME_REPLY,     /* any object: the call has succeeded */
    FRAME_FAIL,      /* {code, message, hint, sqlstate, errno}: it has not */
    FRAME_PING,      /* empty; answered by */
    FRAME_PONG,
};

struct frame {
    int type;
    uint32_t id;
    const void *payload;
    size_t len;
};

/* Appends a frame. A payload over FRAME_PAYLOAD_BYTES is a bug. */
void frame_append(struct str *out, const struct frame *f);

/* Cuts frames out of bytes as they come. Caller's storage: FRAME_READER_INIT, then done. */
struct frame_reader {
    struct str bytes;
    size_t taken; /* of bytes: what was handed out already */
    size_t skipped;
    bool begun; /* the first frame was seen */
};

#define FRAME_READER_INIT                                                                          \
    {                                                                                              \
        .bytes = STR_INIT                                                                          \
    }

void frame_reader_feed(struct frame_reader *r, const void *bytes, size_t len);

/* 1 a frame (*out is valid until the next call of either function), 0 more bytes are needed, or
 * ERR_PROTOCOL, after which the reader gives nothing else. */
int frame_reader_next(struct frame_reader *r, struct frame *out, struct err *e);

void frame_reader_done(struct frame_reader *r);

#endif
