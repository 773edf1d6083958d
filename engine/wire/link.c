#include "moonrise/wire/link.h"

#include "moonrise/base/err.h"
#include "moonrise/loop/loop.h"
#include "moonrise/wire/message.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LINK_TICK_MS 100 /* how soon a stopped wait ends */
/* Of a queue that has been sent, this much is kept before the rest is moved to the front. */
#define LINK_QUEUE_BYTES (256 * 1024)
#define LINK_HELD_FRAMES 16
#define LINK_HELD_MS     100
/* Of a frame that has begun, so much comes within stall_ms: over 100 kbit/s, shared by a hundred streams, it is
 * several times as much. */
#define LINK_PROGRESS_BYTES 1024
/* More than any end queues for one that reads: a few frames of the greatest length. */
#define LINK_UNSENT_BYTES (32u << 20)

void
link_init(struct link *l)
{
    l->reader = (struct frame_reader)FRAME_READER_INIT;
    str_init(&l->queue);
    fcntl(l->in, F_SETFL, fcntl(l->in, F_GETFL) | O_NONBLOCK);
    fcntl(l->out, F_SETFL, fcntl(l->out, F_GETFL) | O_NONBLOCK);
}

static int
link_broken(const struct link *l, int sys, struct err *e)
{
    if (sys == EPIPE || sys == ECONNRESET || sys == 0)
        return err_set(e, ERR_CONNECT, "%s has ended the connection", l->peer);
    return err_set(e, ERR_CONNECT, "the connection with %s: %s", l->peer, strerror(sys));
}

static int64_t
now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Writes what goes without waiting; *done counts it. */
static int
link_put(struct link *l, const char *bytes, size_t len, size_t *done, struct err *e)
{
    if (l->torn)
        return err_set(e, ERR_CONNECT, "the connection with %s has ended within a frame", l->peer);
    while (*done < len) {
        ssize_t n = write(l->out, bytes + *done, len - *done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return 0;
        if (n < 0)
            return link_broken(l, errno, e);
        *done += (size_t)n;
        l->bytes_out += (uint64_t)n;
    }
    return 0;
}

static int
link_push(struct link *l, struct err *e)
{
    int rc = link_put(l, l->queue.data, l->queue.len, &l->sent, e);
    l->held = 0;
    if (l->sent == l->queue.len) {
        str_clear(&l->queue);
        l->sent = 0;
    } else if (l->sent > LINK_QUEUE_BYTES) {
        memmove(l->queue.data, l->queue.data + l->sent, l->queue.len - l->sent);
        l->queue.len -= l->sent;
        l->sent = 0;
    }
    if (rc == 0 && l->queue.len - l->sent > LINK_UNSENT_BYTES)
        return err_set(e, ERR_PROTOCOL, "%s does not read what it is sent", l->peer);
    return rc;
}

int
link_send(struct link *l, const struct frame *f, struct err *e)
{
    frame_append(&l->queue, f);
    return link_push(l, e);
}

int
link_hold(struct link *l, const struct frame *f, struct err *e)
{
    int64_t now = clock_ms();
    if (l->held++ == 0)
        l->held_ms = now;
    frame_append(&l->queue, f);
    bool waits = l->held < LINK_HELD_FRAMES && now - l->held_ms < LINK_HELD_MS;
    return waits ? 0 : link_push(l, e);
}

int
link_send_message(struct link *l, int type, uint32_t id, const struct message *m, struct err *e)
{
    char *text = m ? message_format(m) : NULL;
    struct frame f = {.type = type, .id = id, .payload = text, .len = text ? strlen(text) : 0};
    int rc = f.len > FRAME_PAYLOAD_BYTES
                 ? err_set(e, ERR_LIMIT, "a message for %s is longer than a frame may be", l->peer)
                 : link_send(l, &f, e);
    free(text);
    return rc;
}

static int
link_goes_on(const struct link *l, struct err *e)
{
    if (l->stopped && l->stopped(l->arg))
        return err_set(e, ERR_CANCELLED, "the exchange with %s was cancelled", l->peer);
    return 0;
}

/* Waits for one of the events, at most a tick; ERR_CANCELLED. */
static int
link_poll(const struct link *l, struct pollfd *fds, int64_t wait_ms, struct err *e)
{
    int64_t tick = wait_ms < LINK_TICK_MS ? wait_ms : LINK_TICK_MS;
    int rc = link_goes_on(l, e);
    if (rc < 0)
        return rc;
    if (poll(fds, 2, tick > 0 ? (int)tick : 0) < 0 && errno != EINTR)
        return err_sys(e, errno, "waiting for %s", l->peer);
    return 0;
}

static int
link_late(const struct link *l, const char *what, int64_t late_ms, struct err *e)
{
    err_set(e, ERR_TIMEOUT, "%s has %s for %lld s", l->peer, what, (long long)late_ms / 1000);
    return err_hint(e,
                    "see whether it is reachable, and whether its disk or its memory is exhausted");
}

/* Sends `len` bytes, however long it takes while some go out. */
static int
link_drain(struct link *l, const char *bytes, size_t len, size_t *done, struct err *e)
{
    int64_t since = clock_ms();
    for (;;) {
        size_t before = *done;
        int rc = link_put(l, bytes, len, done, e);
        if (rc < 0 || *done == len)
            return rc;
        int64_t from = now_ns();
        if (*done > before)
            since = clock_ms();
        if (clock_ms() - since > l->stall_ms)
            return link_late(l, "taken nothing", l->stall_ms, e);
        struct pollfd fds[2] = {{.fd = l->out, .events = POLLOUT}, {.fd = -1}};
        if ((rc = link_poll(l, fds, LINK_TICK_MS, e)) < 0)
            return rc;
        l->blocked_ns += now_ns() - from;
    }
}

int
link_write(struct link *l, const void *bytes, size_t len, struct err *e)
{
    size_t done = 0;
    int rc = link_drain(l, l->queue.data, l->queue.len, &l->sent, e);
    if (rc < 0)
        return rc;
    str_clear(&l->queue);
    l->sent = 0;
    l->held = 0;
    rc = link_drain(l, bytes, len, &done, e);
    l->torn = done > 0 && done < len;
    return rc;
}

/* Reads what is there: the number of bytes, 0 when there is none. */
static ssize_t
link_read(struct link *l, struct err *e)
{
    size_t room;
    void *at = frame_reader_room(&l->reader, &room);
    ssize_t n = read(l->in, at, room);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
        return 0;
    if (n <= 0)
        return link_broken(l, n < 0 ? errno : 0, e);
    frame_reader_filled(&l->reader, (size_t)n);
    l->bytes_in += (uint64_t)n;
    return n;
}

static int
link_peer_lies(const struct link *l, int rc, struct err *e)
{
    return rc < 0 ? err_wrap(e, "%s", l->peer) : rc;
}

int
link_next(struct link *l, struct frame *out, int64_t wait_ms, struct err *e)
{
    int64_t began = clock_ms(), heard = began;
    size_t came = 0; /* since `heard`, of a frame that has begun */
    for (;;) {
        int rc = frame_reader_next(&l->reader, out, e);
        if (rc != 0)
            return link_peer_lies(l, rc, e);
        bool begins = l->reader.bytes.len == l->reader.taken;
        ssize_t n = link_read(l, e);
        if (n < 0)
            return (int)n;
        if (l->sent < l->queue.len && (rc = link_push(l, e)) < 0)
            return rc;
        int64_t now = clock_ms();
        came += (size_t)n;
        if (n > 0 && (begins || came >= LINK_PROGRESS_BYTES)) {
            heard = now;
            came = 0;
        }
        if (n > 0)
            continue;
        if (wait_ms >= 0 && now - began >= wait_ms)
            return 0;
        if (wait_ms < 0 && now - heard >= l->stall_ms)
            return link_late(l, came ? "said next to nothing" : "said nothing", l->stall_ms, e);
        struct pollfd fds[2] = {{.fd = l->in, .events = POLLIN},
                                {.fd = l->sent < l->queue.len ? l->out : -1, .events = POLLOUT}};
        int64_t left = wait_ms < 0 ? heard + l->stall_ms - now : began + wait_ms - now;
        if ((rc = link_poll(l, fds, left, e)) < 0)
            return rc;
    }
}

/* One frame that comes while a call is open: 1 when it is the answer. */
static int
link_answer(struct message **out, struct link *l, const struct link_call *call,
            const struct frame *f, struct err *e)
{
    struct message *m = NULL;
    /* The other end is busy with the call, and asks for a sign as well. While it has not read the last one it
     * gets no more: it asks again. */
    if (f->type == FRAME_PING)
        return l->sent < l->queue.len ? 0 : link_send_message(l, FRAME_PONG, 0, NULL, e);
    if (f->type >= FRAME_ASK && call->on_frame)
        return call->on_frame(call->arg, f, e);
    if (f->type != FRAME_REPLY && f->type != FRAME_FAIL)
        return err_set(e, ERR_PROTOCOL, "an answer to '%s' was owed", call->op);
    int rc = message_parse(&m, f->payload, f->len, e);
    if (rc == 0 && f->type == FRAME_FAIL) {
        struct err why = {0};
        message_error(&why, m);
        message_free(m);
        rc = why.code;
        if (e)
            *e = why;
    } else if (rc == 0) {
        *out = m;
        rc = 1;
    }
    return rc;
}

/* Whether an answer is still waited for, though signs of life may come without an end. */
static int
link_awaits(const struct link *l, const struct link_call *call, int64_t began, struct err *e)
{
    char what[64];
    if (call->limit_ms == 0 || clock_ms() - began < call->limit_ms)
        return link_goes_on(l, e);
    snprintf(what, sizeof what, "not answered '%s'", call->op);
    return link_late(l, what, call->limit_ms, e);
}

int
link_call(struct message **out, struct link *l, const struct link_call *call, struct err *e)
{
    struct message *m = message_new();
    struct frame f;
    int64_t began = clock_ms();
    *out = NULL;
    message_set_text(m, "op", call->op);
    if (call->args)
        message_set_shared(m, "args", call->args);
    int rc = link_send_message(l, FRAME_CALL, 1, m, e);
    message_free(m);
    while (rc == 0 && (rc = link_next(l, &f, -1, e)) == 1) {
        if ((rc = link_answer(out, l, call, &f, e)) == ERR_PROTOCOL)
            err_wrap(e, "%s", l->peer);
        if (rc == 0)
            rc = link_awaits(l, call, began, e);
    }
    return rc == 1 ? 0 : rc;
}

void
link_done(struct link *l)
{
    frame_reader_done(&l->reader);
    str_free(&l->queue);
}
