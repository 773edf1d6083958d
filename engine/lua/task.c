#include "bind.h"
#include "runtime.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"
#include "moonrise/loop/timer.h"

#include <stdlib.h>
#include <string.h>

#define TASK  "moonrise.Task"
#define TASKS "moonrise.tasks"

/* Places in a Task's environment table. */
enum { TASK_THREAD = 1, TASK_RAISED, TASK_TRACEBACK };

/* Pushes the environment table of a Task, found by its address: the table of tasks is weak, so an
 * entry is there exactly as long as the object. */
static void
push_environment(lua_State *L, struct task *t)
{
    lua_getfield(L, LUA_REGISTRYINDEX, TASKS);
    lua_pushlightuserdata(L, t);
    lua_rawget(L, -2);
    lua_getfenv(L, -1);
    lua_replace(L, -3);
    lua_pop(L, 1);
}

struct task *
task_new(lua_State *L, struct runtime *rt, int nargs)
{
    int fn = lua_gettop(L) - nargs;
    luaL_checkstack(L, 8, "task");
    struct task *t = class_new(L, TASK, sizeof(*t));
    t->rt = rt;
    t->co = lua_newthread(L);
    lua_createtable(L, 3, 0);
    lua_insert(L, -2);
    lua_rawseti(L, -2, TASK_THREAD);
    lua_setfenv(L, -2);
    lua_getfield(L, LUA_REGISTRYINDEX, TASKS);
    lua_pushlightuserdata(L, t);
    lua_pushvalue(L, -3);
    lua_rawset(L, -3);
    lua_pop(L, 1);
    runtime_anchor(L, t, -1);
    lua_insert(L, fn);
    if (!lua_checkstack(t->co, nargs + LUA_MINSTACK))
        luaL_error(L, "too many arguments");
    lua_xmove(L, t->co, nargs + 1);
    t->nargs = nargs;
    t->next = rt->tasks;
    if (rt->tasks)
        rt->tasks->prev = t;
    rt->tasks = t;
    runtime_ready(rt, t);
    return t;
}

static void
task_unlink(lua_State *L, struct task *t)
{
    struct runtime *rt = t->rt;
    if (t->prev)
        t->prev->next = t->next;
    else
        rt->tasks = t->next;
    if (t->next)
        t->next->prev = t->prev;
    t->prev = t->next = NULL;
    runtime_release(L, t);
}

/* The task waits no more. `w` may be freed already: its address is only a key here. */
static void
task_unwait(struct task *t, struct wait *w)
{
    t->wait = NULL;
    timer_free(t->timer);
    t->timer = NULL;
    runtime_release(t->rt->L, w);
}

/* Stops the operation a task waits for; false when it will end the wait itself. */
static bool
task_stop_wait(struct task *t, bool force)
{
    struct wait *w = t->wait;
    w->task = NULL;
    if (!w->cancel(w, force)) {
        w->task = t;
        return false;
    }
    task_unwait(t, w);
    return true;
}

/* A wait that was begun and never yielded for (the yield raised, inside string.gsub for example). */
static void
task_drop_wait(struct task *t)
{
    if (t->wait)
        task_stop_wait(t, true);
}

/* Stores what was raised, which is on top of the coroutine's stack, with its traceback. */
static void
task_keep_raised(lua_State *L, struct task *t)
{
    push_environment(L, t);
    luaL_traceback(L, t->co, NULL, 0);
    lua_xmove(t->co, L, 1);
    if (error_is(L, -1)) {
        lua_getfield(L, -1, "traceback");
        if (lua_isnil(L, -1)) {
            lua_pushvalue(L, -3);
            lua_setfield(L, -3, "traceback");
        }
        lua_pop(L, 1);
    }
    lua_rawseti(L, -3, TASK_RAISED);
    lua_rawseti(L, -2, TASK_TRACEBACK);
    lua_pop(L, 1);
}

static int
push_results(lua_State *L, void *arg)
{
    return task_push_results(L, arg);
}

static void
task_finish(lua_State *L, struct task *t, bool failed)
{
    task_drop_wait(t);
    t->done = true;
    t->failed = failed;
    t->seen = t->rt->closing; /* what fails because the program ends is nobody's concern */
    if (failed)
        task_keep_raised(L, t);
    if (t->hook.ended) {
        void (*ended)(void *, struct task *, lua_State *) = t->hook.ended;
        t->hook.ended = NULL;
        ended(t->hook.arg, t, L);
    }
    while (t->joiners) {
        struct wait *w = t->joiners;
        t->joiners = w->next;
        wait_end(w, push_results, t);
        free(w);
    }
    task_unlink(L, t);
}

void
task_step(lua_State *L, struct task *t)
{
    struct runtime *rt = t->rt;
    if (t->cancelled && !t->started) {
        error_pushf(L, ERR_CANCELLED, "cancelled before it began");
        lua_xmove(L, t->co, 1);
        task_finish(L, t, true);
        return;
    }
    int nargs = t->nargs;
    t->nargs = 0;
    t->started = true;
    rt->current = t;
    int status = lua_resume(t->co, nargs);
    rt->current = NULL;
    if (status == LUA_YIELD) {
        /* While the program ends a task that would wait is left where it is. */
        if (t->wait || rt->closing)
            return;
        lua_pushliteral(t->co, "coroutine.yield in a task, outside of a coroutine of its own");
    }
    task_finish(L, t, status != 0);
}

int
task_push_results(lua_State *L, struct task *t)
{
    t->seen = true;
    if (t->failed) {
        lua_pushnil(L);
        push_environment(L, t);
        lua_rawgeti(L, -1, TASK_RAISED);
        bool text = !error_is(L, -1);
        error_wrap(L);
        if (text) {
            lua_rawgeti(L, -2, TASK_TRACEBACK);
            lua_setfield(L, -2, "traceback");
        }
        lua_remove(L, -2);
        return 2;
    }
    int count = lua_gettop(t->co);
    luaL_checkstack(L, count + 1, "results");
    luaL_checkstack(t->co, 1, "results");
    for (int i = 1; i <= count; i++) {
        lua_pushvalue(t->co, i);
        lua_xmove(t->co, L, 1);
    }
    return count;
}

void
task_push_raised(lua_State *L, struct task *t)
{
    t->seen = true;
    push_environment(L, t);
    if (t->rt->verbose) {
        lua_rawgeti(L, -1, TASK_TRACEBACK);
        lua_setfield(L, LUA_REGISTRYINDEX, "moonrise.traceback");
    }
    lua_rawgeti(L, -1, TASK_RAISED);
    lua_remove(L, -2);
}

/* What waits for the end of `t`, or was queued with it, is kept: nobody ends it any more. */
void
task_abandon(struct task *t)
{
    task_drop_wait(t);
    while (t->joiners) {
        struct wait *w = t->joiners;
        t->joiners = w->next;
        if (w->task)
            task_unwait(w->task, w);
        free(w);
    }
    if (t->hook.ended)
        free(t->hook.arg);
    t->hook.ended = NULL;
    t->cancelled = true;
    task_unlink(t->rt->L, t);
}

static int
push_cancelled(lua_State *L, void *arg)
{
    (void)arg;
    lua_pushnil(L);
    error_pushf(L, ERR_CANCELLED, "cancelled");
    return 2;
}

static int
push_timeout(lua_State *L, void *arg)
{
    lua_pushnil(L);
    error_pushf(L, ERR_TIMEOUT, "gave up waiting for %s", (const char *)arg);
    return 2;
}

struct delivery {
    struct task *task;
    push_fn push;
    void *arg;
};

/* Whether the results from `first` on say that the operation was cancelled: nil and such an error. */
static bool
tells_cancelled(lua_State *L, int first)
{
    if (!lua_isnil(L, first) || !error_is(L, first + 1))
        return false;
    lua_getfield(L, first + 1, "code");
    bool told = lua_isstring(L, -1) && strcmp(lua_tostring(L, -1), err_name(ERR_CANCELLED)) == 0;
    lua_pop(L, 1);
    return told;
}

/* An operation that ended otherwise, though its task was cancelled, leaves the cancel to the next one. */
static int
deliver(lua_State *L)
{
    struct delivery *d = lua_touserdata(L, 1);
    int count = 1;
    if (d->push)
        count = d->push(L, d->arg);
    else
        lua_pushboolean(L, true);
    if (count > 1 && tells_cancelled(L, lua_gettop(L) - count + 1))
        d->task->cancelled = false;
    luaL_checkstack(d->task->co, count + LUA_MINSTACK, "results");
    lua_xmove(L, d->task->co, count);
    d->task->nargs = count;
    return 0;
}

static void
task_deliver(struct task *t, push_fn push, void *arg)
{
    struct delivery d = {.task = t, .push = push, .arg = arg};
    must(lua_cpcall(t->rt->L, deliver, &d) == 0);
    runtime_ready(t->rt, t);
}

bool
wait_end(struct wait *w, push_fn push, void *arg)
{
    struct task *t = w->task;
    if (!t)
        return false;
    bool waits = t != t->rt->current;
    w->task = NULL;
    t->wait = NULL;
    if (waits)
        task_deliver(t, push, arg);
    task_unwait(t, w); /* what the wait anchored lives until its results are copied */
    return waits;
}

int
push_error(lua_State *L, void *arg)
{
    return error_return(L, arg);
}

void
task_cancel(struct task *t)
{
    if (t->done)
        return;
    bool force = t->cancelled || t->rt->closing;
    t->cancelled = true;
    if (!t->wait || t == t->rt->current || !task_stop_wait(t, force))
        return;
    t->cancelled = false;
    task_deliver(t, push_cancelled, NULL);
}

static void
task_timed_out(void *arg)
{
    struct task *t = arg;
    const char *what = t->wait->what;
    task_stop_wait(t, true);
    task_deliver(t, push_timeout, (void *)what);
}

int
task_enter(lua_State *L, const char *name, struct task **out)
{
    struct runtime *rt = runtime_of(L);
    struct task *t = rt->current;
    if (!t || t->co != L)
        return luaL_error(L,
                          "%s waits: it can be called only in a task (mr.main, mr.spawn), "
                          "not in a callback or a coroutine",
                          name);
    task_drop_wait(t);
    if (rt->closing)
        return lua_yield(L, 0);
    if (t->cancelled) {
        t->cancelled = false;
        return push_cancelled(L, NULL);
    }
    *out = t;
    return 0;
}

int
task_wait(lua_State *L, struct task *t, struct wait *w, int64_t timeout_ms, int anchor)
{
    w->task = t;
    t->wait = w;
    if (anchor)
        runtime_anchor(L, w, anchor);
    if (timeout_ms >= 0)
        (w->pace ? timer_start : timer_deadline)(&t->timer, t->rt->loop, timeout_ms, task_timed_out,
                                                 t);
    lua_settop(L, 0);
    return lua_yield(L, 0);
}

/* mr.spawn(fn, ...) -> Task */
int
task_spawn(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TFUNCTION);
    task_new(L, runtime_running(L, "spawn"), lua_gettop(L) - 1);
    return 1;
}

static struct task *
task_check(lua_State *L)
{
    return luaL_checkudata(L, 1, TASK);
}

struct join {
    struct wait wait;
    struct task *target;
};

static bool
join_cancel(struct wait *w, bool force)
{
    (void)force;
    struct wait **place = &((struct join *)w)->target->joiners;
    while (*place != w)
        place = &(*place)->next;
    *place = w->next;
    free(w);
    return true;
}

/* Task:wait(timeout_ms?) -> results, or nil, err */
static int
l_wait(lua_State *L)
{
    struct task *target = task_check(L), *t;
    int64_t timeout_ms = arg_ms(L, 2, -1);
    int rc = task_enter(L, "wait", &t);
    if (rc)
        return rc;
    if (target == t)
        return luaL_argerror(L, 1, "a task cannot wait for itself");
    if (target->done)
        return task_push_results(L, target);
    struct join *j = mem_zalloc(sizeof(*j));
    j->wait.cancel = join_cancel;
    j->wait.what = "a task";
    j->target = target;
    j->wait.next = target->joiners;
    target->joiners = &j->wait;
    return task_wait(L, t, &j->wait, timeout_ms, 1);
}

/* Task:cancel() */
static int
l_cancel(lua_State *L)
{
    struct task *t = task_check(L);
    if (t->rt->loop && !t->rt->closing)
        task_cancel(t);
    return 0;
}

/* Task:done() -> boolean */
static int
l_done(lua_State *L)
{
    lua_pushboolean(L, task_check(L)->done);
    return 1;
}

/* An error that nobody asked for is not lost. */
static int
l_gc(lua_State *L)
{
    struct task *t = lua_touserdata(L, 1);
    if (!t->failed || t->seen)
        return 0;
    lua_getfenv(L, 1);
    lua_rawgeti(L, -1, TASK_RAISED);
    if (error_is(L, -1)) {
        lua_getfield(L, -1, "code");
        bool cancelled =
            lua_isstring(L, -1) && strcmp(lua_tostring(L, -1), err_name(ERR_CANCELLED)) == 0;
        lua_pop(L, 1);
        if (cancelled)
            return 0;
    }
    runtime_uncaught(t->rt, L, "a task");
    return 0;
}

void
task_register(lua_State *L)
{
    static const luaL_Reg methods[] = {
        {"wait", l_wait}, {"cancel", l_cancel}, {"done", l_done}, {NULL, NULL}};
    class_register(L, TASK, methods, l_gc);
    lua_newtable(L);
    lua_newtable(L);
    lua_pushliteral(L, "v");
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
    lua_setfield(L, LUA_REGISTRYINDEX, TASKS);
}
