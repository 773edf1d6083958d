#include "moonrise/conn/conn.h"

#include "moonrise/base/str.h"
#include "moonrise/loop/fd.h"
#include "moonrise/loop/loop.h"
#include "moonrise/loop/timer.h"

#include "pq.h"

#include <stdlib.h>
#include <string.h>

enum conn_state { CONN_CONNECTING, CONN_IDLE, CONN_BUSY, CONN_BROKEN };

/* Every callback to the caller is the last thing done with the connection: it may free it. */
struct conn {
    struct loop *l;
    struct pq pq;
    enum conn_state state;
    struct fdwatch *watch;
    int wants;
    struct timer *timer; /* the deadline, or the next turn when `failure` waits to be told */
    int64_t timeout_ms;
    struct err failure;
    void (*connected)(void *arg, const struct err *e);
    void (*answered)(void *arg, const struct result *r, const struct err *e);
    void *arg;
    void (*lost)(void *arg, const struct err *e);
    void *lost_arg;
};

static void conn_ready(void *arg, int events);

static void
conn_break(struct conn *c, const struct err *why)
{
    c->state = CONN_BROKEN;
    c->failure = *why;
    fdwatch_free(c->watch);
    c->watch = NULL;
    pq_close(&c->pq);
}

/* Ends what is under way and tells whoever began it. */
static void
conn_finish(struct conn *c, const struct result *r, const struct err *e)
{
    void (*connected)(void *, const struct err *) = c->connected;
    void (*answered)(void *, const struct result *, const struct err *) = c->answered;
    void *arg = c->arg;
    timer_stop(c->timer);
    c->connected = NULL;
    c->answered = NULL;
    if (connected)
        connected(arg, e);
    else if (answered)
        answered(arg, r, e);
}

/* Tells the failure on a later turn of the loop, since callbacks never come out of the call itself. */
static void
conn_fail_later(struct conn *c, const struct err *e)
{
    conn_break(c, e);
    timer_again(c->timer, 0, 0);
}

static int
conn_watch(struct conn *c, int wants, struct err *e)
{
    if (c->watch) {
        if (c->wants != wants)
            fdwatch_set(c->watch, wants);
        c->wants = wants;
        return 0;
    }
    struct fdwatch_spec spec = {
        .fd = pq_socket(&c->pq), .events = wants, .fn = conn_ready, .arg = c};
    c->wants = wants;
    int rc = fdwatch_start(&c->watch, c->l, &spec, e);
    return rc == 0 ? 0 : err_set(e, ERR_CONNECT, "%s", "the connection's socket is gone");
}

static void
conn_step_connect(struct conn *c)
{
    struct err e;
    int wants = 0;
    /* libpq may close the socket and open another one under the same number. */
    fdwatch_free(c->watch);
    c->watch = NULL;
    int rc = pq_connect_step(&c->pq, &wants, &e);
    if (rc >= 0) {
        int code = conn_watch(c, rc > 0 ? FD_READ : wants, &e);
        rc = code < 0 ? code : rc;
    }
    if (rc == 0)
        return;
    if (rc < 0)
        conn_break(c, &e);
    else
        c->state = CONN_IDLE;
    conn_finish(c, NULL, rc < 0 ? &e : NULL);
}

static void
conn_step_query(struct conn *c)
{
    struct err e;
    struct result r = {NULL};
    int wants = 0;
    int rc = pq_query_step(&c->pq, &wants, &r, &e);
    if (rc == 0) {
        conn_watch(c, wants, &e);
        return;
    }
    if (pq_alive(&c->pq)) {
        c->state = CONN_IDLE;
        conn_watch(c, FD_READ, NULL);
    } else {
        if (rc > 0)
            err_set(&e, ERR_CONNECT, "the session is broken");
        conn_break(c, &e);
    }
    conn_finish(c, rc > 0 ? &r : NULL, rc > 0 ? NULL : &e);
    PQclear(r.pg);
}

static void
conn_tell_lost(struct conn *c, const struct err *e)
{
    void (*lost)(void *, const struct err *) = c->lost;
    c->lost = NULL;
    if (lost)
        lost(c->lost_arg, e);
}

static void
conn_step_idle(struct conn *c)
{
    struct err e;
    if (pq_idle_step(&c->pq, &e) == 0)
        return;
    conn_break(c, &e);
    conn_tell_lost(c, &e);
}

static void
conn_ready(void *arg, int events)
{
    struct conn *c = arg;
    (void)events;
    switch (c->state) {
    case CONN_CONNECTING:
        conn_step_connect(c);
        break;
    case CONN_BUSY:
        conn_step_query(c);
        break;
    case CONN_IDLE:
        conn_step_idle(c);
        break;
    case CONN_BROKEN:
        break;
    }
}

static void
conn_timer(void *arg)
{
    struct conn *c = arg;
    struct err e;
    if (c->state == CONN_BROKEN) {
        e = c->failure;
        if (c->connected || c->answered)
            conn_finish(c, NULL, &e);
        else
            conn_tell_lost(c, &e);
        return;
    }
    if (c->state == CONN_CONNECTING) {
        err_set(&e, ERR_TIMEOUT, "no session within %lld ms: %s", (long long)c->timeout_ms,
                pq_phase(&c->pq));
    } else {
        err_set(&e, ERR_TIMEOUT, "no answer within %lld ms", (long long)c->timeout_ms);
        pq_cancel(&c->pq, 0);
    }
    conn_break(c, &e);
    conn_finish(c, NULL, &e);
}

void
conn_open(struct conn **out, struct loop *l, const struct conn_spec *spec)
{
    struct conn *c = mem_zalloc(sizeof(*c));
    struct err e;
    *out = c;
    c->l = l;
    c->connected = spec->done;
    c->arg = spec->arg;
    c->timeout_ms = spec->timeout_ms;
    timer_deadline(&c->timer, l, spec->timeout_ms, conn_timer, c);
    if (pq_start(&c->pq, &spec->params, &e) != 0 || conn_watch(c, FD_WRITE, &e) != 0)
        conn_fail_later(c, &e);
}

void
conn_query(struct conn *c, const struct statement *st, int64_t timeout_ms,
           void (*done)(void *arg, const struct result *r, const struct err *e), void *arg)
{
    struct err e;
    must(c->state == CONN_IDLE || c->state == CONN_BROKEN);
    must(!c->connected && !c->answered);
    c->answered = done;
    c->arg = arg;
    c->timeout_ms = timeout_ms;
    if (c->state == CONN_BROKEN) {
        timer_again(c->timer, 0, 0);
        return;
    }
    c->state = CONN_BUSY;
    timer_again(c->timer, timeout_ms, 0);
    int wants = 0;
    if (pq_send(&c->pq, st, &wants, &e) != 0)
        conn_fail_later(c, &e);
    else
        conn_watch(c, wants, NULL);
}

void
conn_on_lost(struct conn *c, void (*fn)(void *arg, const struct err *e), void *arg)
{
    c->lost = fn;
    c->lost_arg = arg;
    if (fn && c->state == CONN_BROKEN && !c->connected && !c->answered)
        timer_again(c->timer, 0, 0);
}

bool
conn_is_open(const struct conn *c)
{
    return c->state == CONN_IDLE || c->state == CONN_BUSY;
}

bool
conn_is_busy(const struct conn *c)
{
    return c->connected || c->answered;
}

int
conn_backend_pid(const struct conn *c)
{
    return conn_is_open(c) ? PQbackendPID(c->pq.conn) : 0;
}

int
conn_server_version(const struct conn *c)
{
    return conn_is_open(c) ? PQserverVersion(c->pq.conn) : 0;
}

void
conn_free(struct conn *c)
{
    if (!c)
        return;
    timer_free(c->timer);
    fdwatch_free(c->watch);
    pq_close(&c->pq);
    free(c);
}
