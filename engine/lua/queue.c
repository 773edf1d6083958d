#include "bind.h"
#include "runtime.h"

#include "moonrise/base/str.h"

#include <stdlib.h>

#define QUEUE "moonrise.Queue"

/* The values are in the object's environment table, numbered from `head` to `tail` - 1. */
struct queue {
    struct wait *waiting; /* the longest waiting first */
    int head, tail;
};

struct pop {
    struct wait wait;
    struct queue *queue;
};

static struct queue *
queue_check(lua_State *L)
{
    return luaL_checkudata(L, 1, QUEUE);
}

/* mr.queue() -> Queue */
int
queue_new(lua_State *L)
{
    class_new(L, QUEUE, sizeof(struct queue));
    lua_newtable(L);
    lua_setfenv(L, -2);
    return 1;
}

static void
queue_forget(struct queue *q, struct wait *w)
{
    struct wait **place = &q->waiting;
    while (*place != w)
        place = &(*place)->next;
    *place = w->next;
}

static bool
pop_cancel(struct wait *w, bool force)
{
    (void)force;
    queue_forget(((struct pop *)w)->queue, w);
    free(w);
    return true;
}

static int
push_anchored(lua_State *L, void *arg)
{
    runtime_anchored(L, arg);
    return 1;
}

/* Queue:push(value) */
static int
l_push(lua_State *L)
{
    struct queue *q = queue_check(L);
    luaL_checkany(L, 2);
    luaL_argcheck(L, !lua_isnil(L, 2), 2, "a value expected, got nil");
    while (q->waiting) {
        struct wait *w = q->waiting;
        queue_forget(q, w);
        runtime_anchor(L, q, 2); /* the way from this coroutine's stack to the other one's */
        bool taken = wait_end(w, push_anchored, q);
        runtime_release(L, q);
        free(w);
        if (taken)
            return 0;
    }
    lua_getfenv(L, 1);
    lua_pushvalue(L, 2);
    lua_rawseti(L, -2, q->tail++);
    return 0;
}

/* Queue:pop(timeout_ms?) -> value, or nil, err */
static int
l_pop(lua_State *L)
{
    struct queue *q = queue_check(L);
    int64_t timeout_ms = arg_ms(L, 2, -1);
    struct task *t;
    int rc = task_enter(L, "pop", &t);
    if (rc)
        return rc;
    if (q->head != q->tail) {
        lua_getfenv(L, 1);
        lua_rawgeti(L, -1, q->head);
        lua_pushnil(L);
        lua_rawseti(L, -3, q->head++);
        if (q->head == q->tail)
            q->head = q->tail = 0;
        return 1;
    }
    struct pop *p = mem_zalloc(sizeof(*p));
    p->wait.cancel = pop_cancel;
    p->wait.what = "the queue";
    p->wait.pace = true;
    p->queue = q;
    struct wait **place = &q->waiting;
    while (*place)
        place = &(*place)->next;
    *place = &p->wait;
    return task_wait(L, t, &p->wait, timeout_ms, 1);
}

/* Queue:size() -> integer */
static int
l_size(lua_State *L)
{
    struct queue *q = queue_check(L);
    lua_pushinteger(L, q->tail - q->head);
    return 1;
}

void
queue_register(lua_State *L)
{
    static const luaL_Reg methods[] = {
        {"push", l_push}, {"pop", l_pop}, {"size", l_size}, {NULL, NULL}};
    class_register(L, QUEUE, methods, NULL);
}
