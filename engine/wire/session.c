#include "moonrise/wire/session.h"

#include "moonrise/base/str.h"
#include "moonrise/base/version.h"
#include "moonrise/loop/timer.h"
#include "moonrise/wire/channel.h"
#include "moonrise/wire/frame.h"
#include "moonrise/wire/message.h"

#include "calls.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SESSION_PROTOCOL     2
#define SESSION_HEARTBEAT_MS 2000
#define SESSION_DEAD_MS      10000
/* More than what is queued for an end that reads. */
#define SESSION_UNSENT_BYTES (32u << 20)

/* Deadlines that say why a call was never sent. */
#define SESSION_OVER     (-1)
#define SESSION_TOO_LONG (-2)

/* Callbacks may free the session: `depth` counts those that run, and the last one out frees it. */
struct session {
    struct loop *l;
    struct channel *channel; /* NULL once the session is over */
    struct session_events events;
    struct frame_reader reader;
    struct calls calls;
    struct timer *heartbeat;
    int64_t heartbeat_ms, dead_ms;
    int silent; /* heartbeats since the last byte came */
    int depth;
    bool greeted, freed;
    bool program;   /* one was started there */
    char *host;     /* the other end's, when that is another one */
    struct err why; /* code 0 while the session lives */
};

static void
session_enter(struct session *s)
{
    s->depth++;
}

static void
session_leave(struct session *s)
{
    if (--s->depth > 0 || !s->freed)
        return;
    frame_reader_done(&s->reader);
    calls_done(&s->calls);
    timer_free(s->heartbeat);
    free(s->host);
    free(s);
}

/* Sends a frame with a message (or NULL): false when that is longer than a frame may be. */
static bool
session_send(struct session *s, int type, uint32_t id, const struct message *m)
{
    if (!s->channel)
        return true;
    struct str bytes = STR_INIT;
    char *text = m ? message_format(m) : NULL;
    struct frame f = {.type = type, .id = id, .payload = text, .len = text ? strlen(text) : 0};
    bool fits = f.len <= FRAME_PAYLOAD_BYTES;
    if (fits) {
        frame_append(&bytes, &f);
        channel_write(s->channel, bytes.data, bytes.len);
    }
    free(text);
    str_free(&bytes);
    return fits;
}

/* The end: every open call fails, then the owner hears of it, once. */
static void
session_over(struct session *s, const struct err *why)
{
    if (s->why.code != 0)
        return;
    s->why = *why;
    session_enter(s);
    channel_free(s->channel);
    s->channel = NULL;
    timer_stop(s->heartbeat);
    calls_fail_all(&s->calls, why);
    if (!s->freed && s->events.on_end)
        s->events.on_end(s->events.arg, why);
    session_leave(s);
}

static void
session_refuse(struct session *s, uint32_t id, int code, const char *text)
{
    struct message *m = message_new();
    message_set_text(m, "code", err_name(code));
    message_set_text(m, "message", text);
    session_send(s, FRAME_FAIL, id, m);
    message_free(m);
}

static bool
session_serves(const struct session *s)
{
    return s->events.on_call != NULL;
}

/* What to do about a moonrise there that is none, or another one. */
static void
session_hint(const struct session *s, struct err *e)
{
    if (s->host)
        err_hint(e, "install this moonrise there: moonrise deploy %s", s->host);
    else
        err_hint(e, "moonrise was replaced while this process ran: start this command anew");
}

static int
session_compare(const struct session *s, const struct message *m, struct err *e)
{
    int64_t protocol = message_int(m, "protocol", 0);
    const char *version = message_text(m, "version", "of an unknown version");
    if (protocol == SESSION_PROTOCOL && strcmp(version, MOONRISE_VERSION) == 0)
        return 0;
    err_set(e, ERR_VERSION, "%s%smoonrise there is %.40s (protocol %lld), this one %s (%d)",
            s->host ? s->host : "", s->host ? ": " : "", version, (long long)protocol,
            MOONRISE_VERSION, SESSION_PROTOCOL);
    session_hint(s, e);
    return ERR_VERSION;
}

static int
session_greeting(struct session *s, const struct frame *f, struct err *e)
{
    struct message *m = NULL;
    if (f->type != FRAME_HELLO || s->greeted)
        return err_set(e, ERR_PROTOCOL, "the other end sent its greeting %s",
                       s->greeted ? "twice" : "too late");
    int rc = message_parse(&m, f->payload, f->len, e);
    if (rc == 0)
        rc = session_compare(s, m, e);
    /* A terminal's echo, say, greets with what it was sent. */
    if (rc == 0 && message_bool(m, "serves", false) == session_serves(s))
        rc = err_set(e, ERR_PROTOCOL, "both ends take the same part: what is sent comes back");
    message_free(m);
    s->greeted = rc == 0;
    if (rc == 0 && s->events.on_up)
        s->events.on_up(s->events.arg);
    return rc;
}

static int
session_called(struct session *s, const struct frame *f, struct err *e)
{
    struct message *m, *empty = NULL;
    const char *op;
    if (!session_serves(s)) {
        session_refuse(s, f->id, ERR_PROTOCOL, "this end takes no calls");
        return 0;
    }
    int rc = message_parse(&m, f->payload, f->len, e);
    if (rc != 0)
        return rc;
    rc = message_need_text(m, "op", &op, e);
    if (rc == 0)
        rc = calls_serve(&s->calls, f->id, e);
    if (rc == 0) {
        const struct message *args = message_object(m, "args");
        if (!args)
            args = empty = message_new();
        s->events.on_call(s->events.arg, s, f->id, op, args);
    } else if (rc == ERR_LIMIT) {
        session_refuse(s, f->id, ERR_LIMIT, e->message);
        rc = 0;
    }
    message_free(empty);
    message_free(m);
    return rc;
}

/* What comes back for a call of ours. One that is not known was withdrawn meanwhile. */
static int
session_answered(struct session *s, const struct frame *f, struct err *e)
{
    struct message *m;
    int rc = message_parse(&m, f->payload, f->len, e);
    if (rc != 0)
        return rc;
    struct err failure;
    if (f->type == FRAME_PROGRESS) {
        calls_progress(&s->calls, f->id, m);
    } else if (f->type == FRAME_REPLY) {
        calls_finish(&s->calls, f->id, m, NULL);
    } else {
        message_error(&failure, m);
        calls_finish(&s->calls, f->id, NULL, &failure);
    }
    message_free(m);
    return 0;
}

static int
session_frame(struct session *s, const struct frame *f, struct err *e)
{
    size_t unsent = channel_unsent_bytes(s->channel);
    if (f->type == FRAME_HELLO || !s->greeted)
        return session_greeting(s, f, e);
    if (unsent > SESSION_UNSENT_BYTES)
        return err_set(e, ERR_PROTOCOL, "the other end does not read what it is sent");
    switch (f->type) {
    case FRAME_CALL:
        return session_called(s, f, e);
    case FRAME_CANCEL:
        if (calls_is_served(&s->calls, f->id) && s->events.on_cancel)
            s->events.on_cancel(s->events.arg, s, f->id);
        return 0;
    case FRAME_PING: /* what is unsent is a sign of life as well, once it is read */
        if (unsent == 0)
            session_send(s, FRAME_PONG, 0, NULL);
        return 0;
    case FRAME_PONG:
        return 0;
    case FRAME_ASK:
    case FRAME_BLOCKS:
    case FRAME_LIST:
        return err_set(e, ERR_PROTOCOL, "the other end sent a frame that is none of a session");
    default:
        return session_answered(s, f, e);
    }
}

/* What has broken a session that was up is one thing to its callers: they do not know what became of
 * their calls. Before that the reason counts. */
static void
session_failed(struct session *s, struct err *e)
{
    if (s->greeted) {
        e->code = ERR_CONNECT;
    } else if (s->host && e->code == ERR_PROTOCOL) {
        err_wrap(e, "%s: what answers there is no moonrise", s->host);
        session_hint(s, e);
    } else if (s->host && (e->code == ERR_NOTFOUND || e->code == ERR_CHILD) && s->program) {
        err_wrap(e, "%s: moonrise cannot be run there", s->host);
        session_hint(s, e);
    } else if (!s->host && e->code == ERR_CHILD) {
        e->code = ERR_CONNECT;
    }
    session_over(s, e);
}

static void
session_bytes(void *arg, const void *bytes, size_t len)
{
    struct session *s = arg;
    struct frame f;
    struct err e;
    int rc = 0;
    session_enter(s);
    s->silent = 0;
    frame_reader_feed(&s->reader, bytes, len);
    while (s->channel && rc == 0 && (rc = frame_reader_next(&s->reader, &f, &e)) == 1)
        rc = session_frame(s, &f, &e);
    if (rc < 0)
        session_failed(s, &e);
    session_leave(s);
}

static void
session_ended(void *arg, const struct err *why)
{
    struct err e = *why;
    session_failed(arg, &e);
}

/* Silence is counted in heartbeats, not by the clock, so that a process that stood still itself does
 * not take that for the other end's silence. */
static void
session_beat(void *arg)
{
    struct session *s = arg;
    if ((int64_t)++s->silent * s->heartbeat_ms > s->dead_ms) {
        struct err e;
        err_set(&e, ERR_CONNECT, "nothing was heard for %lld ms", (long long)s->dead_ms);
        session_over(s, &e);
        return;
    }
    session_send(s, FRAME_PING, 0, NULL);
}

static struct session *
session_new(struct loop *l, const struct session_events *ev)
{
    struct session *s = mem_zalloc(sizeof(*s));
    s->l = l;
    s->events = *ev;
    s->reader = (struct frame_reader)FRAME_READER_INIT;
    calls_init(&s->calls, l);
    timer_every(&s->heartbeat, l, SESSION_HEARTBEAT_MS, session_beat, s);
    s->heartbeat_ms = SESSION_HEARTBEAT_MS;
    s->dead_ms = SESSION_DEAD_MS;
    return s;
}

static int
session_opened(struct session **out, struct session *s, int rc)
{
    *out = rc == 0 ? s : NULL;
    if (rc != 0) {
        session_free(s);
        return rc;
    }
    struct message *hello = message_new();
    message_set_int(hello, "protocol", SESSION_PROTOCOL);
    message_set_text(hello, "version", MOONRISE_VERSION);
    message_set_bool(hello, "serves", session_serves(s));
    session_send(s, FRAME_HELLO, 0, hello);
    message_free(hello);
    return 0;
}

int
session_start(struct session **out, struct loop *l, const char *const *argv,
              const struct session_events *ev, struct err *e)
{
    struct session *s = session_new(l, ev);
    struct channel_events events = {session_bytes, session_ended, s, NULL};
    return session_opened(out, s, channel_child(&s->channel, l, argv, &events, e));
}

/* The way there had its own deadline; from here on the heartbeats count. */
static void
session_reached(void *arg)
{
    struct session *s = arg;
    s->program = true;
    timer_again(s->heartbeat, s->heartbeat_ms, s->heartbeat_ms);
}

int
session_start_ssh(struct session **out, struct loop *l, const struct channel_host *host,
                  const struct session_events *ev, struct err *e)
{
    struct session *s = session_new(l, ev);
    struct channel_events events = {session_bytes, session_ended, s, session_reached};
    timer_stop(s->heartbeat);
    s->host = mem_strdup(host->name);
    return session_opened(out, s, channel_ssh(&s->channel, l, host, &events, e));
}

int
session_serve(struct session **out, struct loop *l, const struct session_events *ev, struct err *e)
{
    struct session *s = session_new(l, ev);
    struct channel_events events = {session_bytes, session_ended, s, NULL};
    return session_opened(out, s, channel_stdio(&s->channel, l, &events, e));
}

void
session_set_heartbeat(struct session *s, int64_t every_ms, int64_t dead_ms)
{
    s->heartbeat_ms = every_ms;
    s->dead_ms = dead_ms;
    if (s->channel && (!s->host || s->program))
        timer_again(s->heartbeat, every_ms, every_ms);
}

/* The caller does not want to wait any longer: the other end is told, and its answer is not awaited. */
static void
session_call_due(void *arg, uint32_t id, int64_t timeout_ms)
{
    struct session *s = arg;
    struct err e;
    session_enter(s);
    if (s->why.code != 0) {
        e = s->why;
    } else if (timeout_ms == SESSION_TOO_LONG) {
        err_set(&e, ERR_LIMIT, "the call has more than %d bytes", FRAME_PAYLOAD_BYTES);
    } else {
        err_set(&e, ERR_TIMEOUT, "no answer within %lld ms", (long long)timeout_ms);
        session_send(s, FRAME_CANCEL, id, NULL);
    }
    calls_finish(&s->calls, id, NULL, &e);
    session_leave(s);
}

uint32_t
session_call(struct session *s, const char *op, const struct message *args, int64_t timeout_ms,
             const struct session_call *call)
{
    /* Callbacks never come out of the call itself: one that cannot be sent is due at once. */
    struct calls_deadline deadline = {s->why.code ? SESSION_OVER : timeout_ms, session_call_due, s};
    uint32_t id = calls_add(&s->calls, call, &deadline);
    struct message *m = message_new();
    message_set_text(m, "op", op);
    if (args)
        message_set_shared(m, "args", args);
    if (!session_send(s, FRAME_CALL, id, m))
        calls_expire(&s->calls, id, SESSION_TOO_LONG);
    message_free(m);
    return id;
}

void
session_cancel(struct session *s, uint32_t id)
{
    session_send(s, FRAME_CANCEL, id, NULL);
}

void
session_progress(struct session *s, uint32_t id, const struct message *m)
{
    if (calls_is_served(&s->calls, id))
        session_send(s, FRAME_PROGRESS, id, m);
}

void
session_reply(struct session *s, uint32_t id, const struct message *m)
{
    if (calls_unserve(&s->calls, id) && !session_send(s, FRAME_REPLY, id, m))
        session_refuse(s, id, ERR_LIMIT, "the answer is longer than a frame may be");
}

void
session_fail(struct session *s, uint32_t id, const struct err *e)
{
    if (!calls_unserve(&s->calls, id))
        return;
    struct message *m = message_of_error(e);
    session_send(s, FRAME_FAIL, id, m);
    message_free(m);
}

int
session_pid(const struct session *s)
{
    return s->channel ? channel_pid(s->channel) : 0;
}

void
session_free(struct session *s)
{
    if (!s || s->freed)
        return;
    session_enter(s);
    s->freed = true;
    if (s->why.code == 0) {
        struct err e;
        err_set(&e, ERR_CANCELLED, "the session was closed");
        session_over(s, &e);
    }
    session_leave(s);
}
