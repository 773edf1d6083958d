#include "moonrise/loop/loop.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"

#include "handle.h"

#include <signal.h>
#include <stdlib.h>
#include <time.h>

void
handle_add(struct handle *h, struct loop *l, void (*drop)(struct handle *self))
{
    *h = (struct handle){.l = l, .next = l->first, .link = &l->first, .drop = drop};
    if (h->next)
        h->next->link = &h->next;
    l->first = h;
    h->counted = true;
    l->handles++;
}

void
handle_hide(struct handle *h)
{
    if (h->counted)
        h->l->handles--;
    h->counted = false;
}

void
handle_remove(struct handle *h)
{
    handle_hide(h);
    if (!h->link)
        return;
    *h->link = h->next;
    if (h->next)
        h->next->link = h->link;
    h->link = NULL;
}

int
loop_new(struct loop **out, struct err *e)
{
    struct loop *l = mem_zalloc(sizeof(*l));
    int rc = uv_loop_init(&l->uv);
    if (rc != 0) {
        free(l);
        return err_sys(e, -rc, "cannot create an event loop");
    }
    /* A peer that goes away is an error of the write, not the end of the process. */
    signal(SIGPIPE, SIG_IGN);
    *out = l;
    return 0;
}

void
loop_run(struct loop *l)
{
    uv_run(&l->uv, UV_RUN_DEFAULT);
}

bool
loop_turn(struct loop *l, bool wait)
{
    return uv_run(&l->uv, wait ? UV_RUN_ONCE : UV_RUN_NOWAIT) != 0;
}

void
loop_stop(struct loop *l)
{
    uv_stop(&l->uv);
}

static int64_t
clock_read_ms(clockid_t id)
{
    struct timespec ts;
    clock_gettime(id, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

int64_t
clock_ms(void)
{
    return clock_read_ms(CLOCK_MONOTONIC);
}

int64_t
wall_ms(void)
{
    return clock_read_ms(CLOCK_REALTIME);
}

int
loop_handles(const struct loop *l)
{
    return l->handles;
}

void
loop_free(struct loop *l)
{
    if (!l)
        return;
    while (l->first)
        l->first->drop(l->first);
    /* Only close callbacks are left, and they need a turn. A stop that was asked for before would end
     * the first run at once. */
    while (uv_loop_close(&l->uv) == UV_EBUSY)
        uv_run(&l->uv, UV_RUN_DEFAULT);
    free(l);
}
