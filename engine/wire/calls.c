#include "calls.h"

#include "moonrise/base/str.h"
#include "moonrise/loop/timer.h"

#include <stdlib.h>

#define CALLS_SERVED 1024 /* calls of the other end that may be open at once */

struct open_call {
    struct open_call *next;
    uint32_t id;
    struct session_call call;
    struct calls_deadline deadline;
    struct timer *timer; /* NULL without a deadline */
};

void
calls_init(struct calls *c, struct loop *l)
{
    *c = (struct calls){.l = l};
}

static void
calls_due(void *arg)
{
    struct open_call *o = arg;
    o->deadline.fn(o->deadline.arg, o->id, o->deadline.ms);
}

static struct open_call **
calls_find(struct calls *c, uint32_t id)
{
    struct open_call **at = &c->first;
    while (*at && (*at)->id != id)
        at = &(*at)->next;
    return at;
}

uint32_t
calls_add(struct calls *c, const struct session_call *call, const struct calls_deadline *deadline)
{
    struct open_call *o = mem_zalloc(sizeof(*o));
    /* After four thousand million calls the numbers begin again; one may still be open. */
    do
        c->last_id++;
    while (c->last_id == 0 || *calls_find(c, c->last_id));
    *o = (struct open_call){
        .next = c->first, .id = c->last_id, .call = *call, .deadline = *deadline};
    if (deadline->ms != 0)
        timer_deadline(&o->timer, c->l, deadline->ms, calls_due, o);
    c->first = o;
    return o->id;
}

void
calls_expire(struct calls *c, uint32_t id, int64_t ms)
{
    struct open_call *o = *calls_find(c, id);
    must(o);
    o->deadline.ms = ms;
    if (o->timer)
        timer_again(o->timer, 0, 0);
    else
        timer_start(&o->timer, c->l, 0, calls_due, o);
}

void
calls_progress(struct calls *c, uint32_t id, const struct message *m)
{
    struct open_call *o = *calls_find(c, id);
    if (o && o->call.on_progress)
        o->call.on_progress(o->call.arg, m);
}

static void
calls_end(struct open_call *o, const struct message *m, const struct err *e)
{
    struct session_call call = o->call;
    timer_free(o->timer);
    free(o);
    if (call.on_done)
        call.on_done(call.arg, m, e);
}

void
calls_finish(struct calls *c, uint32_t id, const struct message *m, const struct err *e)
{
    struct open_call **at = calls_find(c, id);
    struct open_call *o = *at;
    if (!o)
        return;
    *at = o->next;
    calls_end(o, m, e);
}

void
calls_fail_all(struct calls *c, const struct err *e)
{
    struct open_call *open = c->first;
    c->first = NULL;
    while (open) {
        struct open_call *next = open->next;
        calls_end(open, NULL, e);
        open = next;
    }
}

int
calls_serve(struct calls *c, uint32_t id, struct err *e)
{
    if (calls_is_served(c, id))
        return err_set(e, ERR_PROTOCOL, "the other end used a call's number twice");
    if (c->nserved >= CALLS_SERVED)
        return err_set(e, ERR_LIMIT, "more than %d calls are open", CALLS_SERVED);
    c->served = mem_realloc(c->served, (c->nserved + 1) * sizeof(*c->served));
    c->served[c->nserved++] = id;
    return 0;
}

bool
calls_is_served(const struct calls *c, uint32_t id)
{
    for (size_t i = 0; i < c->nserved; i++)
        if (c->served[i] == id)
            return true;
    return false;
}

bool
calls_unserve(struct calls *c, uint32_t id)
{
    for (size_t i = 0; i < c->nserved; i++)
        if (c->served[i] == id) {
            c->served[i] = c->served[--c->nserved];
            return true;
        }
    return false;
}

void
calls_done(struct calls *c)
{
    while (c->first) {
        struct open_call *o = c->first;
        c->first = o->next;
        timer_free(o->timer);
        free(o);
    }
    free(c->served);
}
