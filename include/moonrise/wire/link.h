/*
 * Frames over descriptors, by a thread that blocks: the two ends of a copy. Nothing waits for ever, and
 * neither end can make the other one wait for it in turn: while the next frame is waited for, what was
 * queued goes out.
 *
 * A link belongs to one thread at a time. Its descriptors are its caller's, and non-blocking from link_init
 * on.
 */
#ifndef MOONRISE_WIRE_LINK_H
#define MOONRISE_WIRE_LINK_H

#include "moonrise/base/str.h"
#include "moonrise/wire/frame.h"

#include <stdbool.h>
#include <stdint.h>

struct err;
struct message;

/* When nothing has come for so long though something is owed, or next to nothing of a frame that has begun, the
 * other end is taken for dead. */
#define LINK_STALL_MS 30000

struct link {
    int in, out;      /* may be one */
    const char *peer; /* the other end, for messages: "the host sdw1" */
    int64_t stall_ms;
    bool (*stopped)(void *arg); /* asked several times a second while it waits; or NULL */
    void *arg;
    /* What the caller only reads. */
    uint64_t bytes_in, bytes_out;
    int64_t blocked_ns; /* for which it waited for room to send */
    /* The link's own. */
    struct frame_reader reader;
    struct str queue;
    size_t sent;     /* of the queue */
    int held;        /* frames that nobody has tried to send yet */
    int64_t held_ms; /* since when */
    bool torn; /* link_write gave up within a frame: whatever followed would be a part of it */
};

/* Makes a link of the first group of fields, which the caller has set; all others are zero. Free what it holds
 * with link_done. */
void link_init(struct link *l);

/* Queues a frame, and sends what can be sent without waiting. ERR_CONNECT. */
int link_send(struct link *l, const struct frame *f, struct err *e);

/* Queues a frame that need not go at once: small ones wake the other end, and the ssh between, a few at a time.
 * It goes with the next one that is sent, when link_next has to wait, when some are held, or with the first
 * after a tenth of a second. ERR_CONNECT. */
int link_hold(struct link *l, const struct frame *f, struct err *e);

/* The same as link_send for a frame with a message, which is borrowed. ERR_LIMIT when it does not fit. */
int link_send_message(struct link *l, int type, uint32_t id, const struct message *m,
                      struct err *e);

/* Sends all of the queue, then these bytes, waiting as long as some go out within stall_ms. When it gives
 * up between, the link sends nothing any more. ERR_CONNECT, ERR_TIMEOUT, ERR_CANCELLED. */
int link_write(struct link *l, const void *bytes, size_t len, struct err *e);

/* The next frame, valid until the next call: 1, or 0 when none has come after wait_ms (negative: until the
 * link has stalled). ERR_CONNECT at the end of input, ERR_TIMEOUT, ERR_CANCELLED, ERR_PROTOCOL. */
int link_next(struct link *l, struct frame *out, int64_t wait_ms, struct err *e);

/* Sends a call and waits for its answer, which message_free frees. While it is carried out the other end says
 * FRAME_PING several times within stall_ms, and is answered. Errors are those of the call, and of the
 * link. */
struct link_call {
    const char *op;
    const struct message *args;
    int (*on_frame)(void *arg, const struct frame *f,
                    struct err *e); /* takes binary ones; or NULL */
    void *arg;
    int64_t
        limit_ms; /* by when the answer is there, whatever signs of life come; 0: none is known */
};
int link_call(struct message **out, struct link *l, const struct link_call *call, struct err *e);

void link_done(struct link *l);

#endif
