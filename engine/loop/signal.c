#include "moonrise/loop/signal.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"

#include "handle.h"

#include <stdlib.h>

struct sigwatch {
    struct handle handle;
    uv_signal_t uv;
    void (*fn)(void *arg, int signum);
    void *arg;
};

static void
signal_came(uv_signal_t *uv, int signum)
{
    struct sigwatch *s = uv->data;
    s->fn(s->arg, signum);
}

static void
signal_closed(uv_handle_t *uv)
{
    free(uv->data);
}

static void
signal_drop(struct handle *h)
{
    sigwatch_free((struct sigwatch *)h);
}

void
sigwatch_start(struct sigwatch **out, struct loop *l, int signum, void (*fn)(void *arg, int signum),
               void *arg)
{
    struct sigwatch *s = mem_zalloc(sizeof(*s));
    handle_add(&s->handle, l, signal_drop);
    must(uv_signal_init(&l->uv, &s->uv) == 0);
    s->uv.data = s;
    s->fn = fn;
    s->arg = arg;
    must(uv_signal_start(&s->uv, signal_came, signum) == 0);
    uv_unref((uv_handle_t *)&s->uv);
    *out = s;
}

void
sigwatch_free(struct sigwatch *s)
{
    if (!s)
        return;
    handle_remove(&s->handle);
    uv_close((uv_handle_t *)&s->uv, signal_closed);
}
