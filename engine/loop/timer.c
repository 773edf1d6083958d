#include "moonrise/loop/timer.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"

#include "handle.h"

#include <stdlib.h>

struct timer {
    struct handle handle;
    uv_timer_t uv;
    void (*fn)(void *arg);
    void *arg;
};

static void
timer_fired(uv_timer_t *uv)
{
    struct timer *t = uv->data;
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
timer_every(struct timer **out, struct loop *l, int64_t every_ms, void (*fn)(void *arg), void *arg)
{
    timer_new(out, l, fn, arg);
    timer_again(*out, every_ms, every_ms);
}

void
timer_again(struct timer *t, int64_t after_ms, int64_t every_ms)
{
    /* libuv counts from the time it last looked at the clock, which a long callback makes old. */
    uv_update_time(&t->handle.l->uv);
    uv_timer_start(&t->uv, timer_fired, after_ms > 0 ? (uint64_t)after_ms : 0,
                   every_ms > 0 ? (uint64_t)every_ms : 0);
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
