#include "moonrise/loop/timer.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"

#include "handle.h"

#include <stdlib.h>

#define AWAY_MS 100 /* a deadline that is found this late was missed by us */

struct timer {
    struct handle handle;
    uv_timer_t uv;
    bool deadline;
    bool given_back;   /* the time away, once for each deadline */
    uint64_t after_ms; /* what was asked for */
    uint64_t due_ms;   /* by the loop's clock */
    void (*fn)(void *arg);
    void *arg;
};

static void timer_fired(uv_timer_t *uv);

static bool
timer_give_back(struct timer *t)
{
    uint64_t now = uv_now(&t->handle.l->uv);
    if (!t->deadline || t->given_back || now < t->due_ms + AWAY_MS)
        return false;
    uint64_t away = now - t->due_ms;
    t->given_back = true;
    /* At least 1: libuv runs a timer of 0 that is set while timers run before it polls. */
    uint64_t more = away < t->after_ms ? away : t->after_ms;
    uv_timer_start(&t->uv, timer_fired, more > 0 ? more : 1, 0);
    return true;
}

static void
timer_fired(uv_timer_t *uv)
{
    struct timer *t = uv->data;
    if (!timer_give_back(t))
        t->fn(t->arg);
}

static void
timer_closed(uv_handle_t *uv)
{
    free(uv->data);
}

static void
timer_drop(struct handle *h)
{
    timer_free((struct timer *)h);
}

static void
timer_new(struct timer **out, struct loop *l, void (*fn)(void *arg), void *arg)
{
    struct timer *t = mem_zalloc(sizeof(*t));
    handle_add(&t->handle, l, timer_drop);
    must(uv_timer_init(&l->uv, &t->uv) == 0);
    t->uv.data = t;
    t->fn = fn;
    t->arg = arg;
    *out = t;
}

void
timer_start(struct timer **out, struct loop *l, int64_t after_ms, void (*fn)(void *arg), void *arg)
{
    timer_new(out, l, fn, arg);
    timer_again(*out, after_ms, 0);
}

void
timer_deadline(struct timer **out, struct loop *l, int64_t after_ms, void (*fn)(void *arg),
               void *arg)
{
    timer_new(out, l, fn, arg);
    (*out)->deadline = true;
    timer_again(*out, after_ms, 0);
}

void
timer_every(struct timer **out, struct loop *l, int64_t every_ms, void (*fn)(void *arg), void *arg)
{
    timer_new(out, l, fn, arg);
    timer_again(*out, every_ms, every_ms);
}

void
timer_again(struct timer *t, int64_t after_ms, int64_t every_ms)
{
    must(!t->deadline || every_ms <= 0); /* what is given back is given once */
    /* libuv counts from the time it last looked at the clock, which a long callback makes old. */
    uv_update_time(&t->handle.l->uv);
    t->after_ms = after_ms > 0 ? (uint64_t)after_ms : 0;
    t->due_ms = uv_now(&t->handle.l->uv) + t->after_ms;
    t->given_back = false;
    uv_timer_start(&t->uv, timer_fired, t->after_ms, every_ms > 0 ? (uint64_t)every_ms : 0);
}

void
timer_stop(struct timer *t)
{
    uv_timer_stop(&t->uv);
}

void
timer_free(struct timer *t)
{
    if (!t)
        return;
    handle_remove(&t->handle);
    uv_close((uv_handle_t *)&t->uv, timer_closed);
}
