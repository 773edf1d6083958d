#include "moonrise/loop/fd.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"

#include "handle.h"

#include <stdlib.h>

struct fdwatch {
    struct handle handle;
    uv_poll_t uv;
    int wanted; /* libuv's events */
    void (*fn)(void *arg, int events);
    void *arg;
};

static void
fd_ready(uv_poll_t *uv, int status, int events)
{
    struct fdwatch *w = uv->data;
    int ready = 0;
    /* libuv stops watching a descriptor that has an error. What its peer said before may come first. */
    if (status < 0)
        must(uv_poll_start(&w->uv, w->wanted, fd_ready) == 0);
    if (status < 0 || (events & UV_READABLE))
        ready |= FD_READ;
    if (status < 0 || (events & UV_WRITABLE))
        ready |= FD_WRITE;
    w->fn(w->arg, ready);
}

static void
fd_closed(uv_handle_t *uv)
{
    free(uv->data);
}

static void
fd_drop(struct handle *h)
{
    fdwatch_free((struct fdwatch *)h);
}

int
fdwatch_start(struct fdwatch **out, struct loop *l, const struct fdwatch_spec *spec, struct err *e)
{
    struct fdwatch *w = mem_zalloc(sizeof(*w));
    int rc = uv_poll_init(&l->uv, &w->uv, spec->fd);
    if (rc != 0) {
        free(w);
        return err_sys(e, -rc, "cannot wait for descriptor %d", spec->fd);
    }
    handle_add(&w->handle, l, fd_drop);
    w->uv.data = w;
    w->fn = spec->fn;
    w->arg = spec->arg;
    fdwatch_set(w, spec->events);
    *out = w;
    return 0;
}

void
fdwatch_set(struct fdwatch *w, int events)
{
    w->wanted = (events & FD_READ ? UV_READABLE : 0) | (events & FD_WRITE ? UV_WRITABLE : 0);
    int rc = w->wanted ? uv_poll_start(&w->uv, w->wanted, fd_ready) : uv_poll_stop(&w->uv);
    must(rc == 0);
}

void
fdwatch_free(struct fdwatch *w)
{
    if (!w)
        return;
    handle_remove(&w->handle);
    uv_close((uv_handle_t *)&w->uv, fd_closed);
}
