/*
 * Frames: how messages and bytes are cut out of a channel. Any thread; a packer belongs to one.
 *
 *   magic  4  89 4D 52 01
 *   length 4  bytes of the payload, at most FRAME_PAYLOAD_BYTES
 *   id     4  the call it belongs to, 0 for none
 *   type   1  enum frame_type
 *   flags  1  enum frame_packing; a receiver refuses flags that it does not know
 *   zero   2
 *   crc    4  CRC-32C of the 16 bytes before and the payload
 *   payload
 *
 * A packed payload is the length of what was packed (4), then what lz4 or zstd made of it. Only binary
 * frames may be packed.
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
    FRAME_HELLO = 1, /* {protocol, version, serves}: the first of each side */
    FRAME_CALL,      /* {op, args} */
    FRAME_CANCEL,    /* empty: the call is withdrawn */
    FRAME_PROGRESS,  /* any object */
    FRAME_REPLY,     /* any object: the call has succeeded */
    FRAME_FAIL,      /* {code, message, hint, sqlstate, errno}: it has not */
    FRAME_PING,      /* empty; answered by */
    FRAME_PONG,
    /* Binary ones, between the two ends of a copy; engine/agent/feed.h says what is in them. */
    FRAME_ASK,
    FRAME_BLOCKS,
    FRAME_LIST,
};

enum frame_packing { FRAME_PLAIN, FRAME_LZ4, FRAME_ZSTD, FRAME_PACKINGS };

struct frame {
    int type;
    uint32_t id;
    const void *payload;
    size_t len;
    enum frame_packing packing;
};

/* Appends a frame. A payload over FRAME_PAYLOAD_BYTES is a bug. */
void frame_append(struct str *out, const struct frame *f);

/* Writes the head of a frame whose payload stands FRAME_HEAD_BYTES behind `head` already: what is large is
 * not copied once more. */
void frame_seal(void *head, const struct frame *f);

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

/* The same without a copy: where the next bytes may be put, *room of them, at least 64 KiB or what the
 * frame that has begun still lacks; frame_reader_filled then says how many there are. */
void *frame_reader_room(struct frame_reader *r, size_t *room);
void frame_reader_filled(struct frame_reader *r, size_t len);

/* 1 a frame (*out is valid until the next call of either function), 0 more bytes are needed, or
 * ERR_PROTOCOL, after which the reader gives nothing else. */
int frame_reader_next(struct frame_reader *r, struct frame *out, struct err *e);

void frame_reader_done(struct frame_reader *r);

/* Packs and unpacks payloads; keeps what the libraries want to keep between two of them. */
struct frame_packer;

struct frame_packer *frame_packer_new(void);

/* How much room packing `len` bytes takes at most. */
size_t frame_pack_bound(size_t len);

/* Packs `len` bytes (up to FRAME_PAYLOAD_BYTES) into `to`, which has frame_pack_bound(len). Returns the length
 * of the packed payload, or 0 when it would not be shorter by a tenth: then it is better sent plain. */
size_t frame_pack(struct frame_packer *p, enum frame_packing packing, void *to, const void *from,
                  size_t len);

/* Where a payload is unpacked to. */
struct frame_room {
    void *bytes;
    size_t room;
    size_t len; /* out: how many there are */
};

/* Unpacks a frame's payload; of a plain one nothing is to be unpacked (ERR_PROTOCOL). ERR_PROTOCOL also when it
 * is damaged, says that it is longer than the room, or is not as long as it says. */
int frame_unpack(struct frame_packer *p, const struct frame *f, struct frame_room *to,
                 struct err *e);

/* NULL is fine. */
void frame_packer_free(struct frame_packer *p);

#endif
