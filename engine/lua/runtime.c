#include "runtime.h"

#include "bind.h"
#include "resolve.h"

#include "moonrise/base/err.h"
#include "moonrise/loop/loop.h"
#include "moonrise/loop/signal.h"
#include "moonrise/loop/timer.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#define RUNTIME "moonrise.runtime"
#define ANCHORS "moonrise.anchors"

static const struct {
    const char *name;
    int signum;
} signals[RUNTIME_SIGNALS] = {{"INT", SIGINT}, {"TERM", SIGTERM}, {"HUP", SIGHUP}};

void
runtime_register(lua_State *L)
{
    struct runtime *rt = lua_newuserdata(L, sizeof(*rt));
    memset(rt, 0, sizeof(*rt));
    for (int i = 0; i < RUNTIME_SIGNALS; i++)
        rt->handlers[i] = LUA_NOREF;
    lua_setfield(L, LUA_REGISTRYINDEX, RUNTIME);
    lua_newtable(L);
    lua_setfield(L, LUA_REGISTRYINDEX, ANCHORS);
}

struct runtime *
runtime_of(lua_State *L)
{
    lua_getfield(L, LUA_REGISTRYINDEX, RUNTIME);
    struct runtime *rt = lua_touserdata(L, -1);
    lua_pop(L, 1);
    return rt;
}

struct runtime *
runtime_running(lua_State *L, const char *what)
{
    struct runtime *rt = runtime_of(L);
    if (!rt->loop || rt->closing)
        luaL_error(L, "%s: only while mr.main runs", what);
    return rt;
}

int
runtime_signal(const char *name)
{
    for (int i = 0; i < RUNTIME_SIGNALS; i++)
        if (strcmp(signals[i].name, name) == 0)
            return i;
    return -1;
}

void
runtime_own(struct runtime *rt, struct open_object *o)
{
    o->prev = NULL;
    o->next = rt->objects;
    if (rt->objects)
        rt->objects->prev = o;
    rt->objects = o;
}

void
runtime_forget(struct runtime *rt, struct open_object *o)
{
    if (o->prev)
        o->prev->next = o->next;
    else if (rt->objects == o)
        rt->objects = o->next;
    if (o->next)
        o->next->prev = o->prev;
    o->prev = o->next = NULL;
}

void
runtime_anchor(lua_State *L, const void *key, int index)
{
    if (index < 0)
        index = lua_gettop(L) + index + 1;
    lua_getfield(L, LUA_REGISTRYINDEX, ANCHORS);
    lua_pushlightuserdata(L, (void *)key);
    lua_pushvalue(L, index);
    lua_rawset(L, -3);
    lua_pop(L, 1);
}

void
runtime_anchored(lua_State *L, const void *key)
{
    lua_getfield(L, LUA_REGISTRYINDEX, ANCHORS);
    lua_pushlightuserdata(L, (void *)key);
    lua_rawget(L, -2);
    lua_remove(L, -2);
}

void
runtime_release(lua_State *L, const void *key)
{
    lua_pushnil(L);
    runtime_anchor(L, key, -1);
    lua_pop(L, 1);
}

void
runtime_uncaught(struct runtime *rt, lua_State *L, const char *where)
{
    error_text(L, -1);
    fprintf(stderr, "moonrise: uncaught error in %s: %s\n", where, lua_tostring(L, -1));
    lua_pop(L, 1);
    if (rt->verbose && error_is(L, -1)) {
        lua_getfield(L, -1, "traceback");
        if (lua_isstring(L, -1))
            fprintf(stderr, "%s\n", lua_tostring(L, -1));
        lua_pop(L, 1);
    }
}

struct callback {
    struct runtime *rt;
    int ref;
    push_fn push;
    void *arg;
    bool task;
};

static int
callback_run(lua_State *L)
{
    struct callback *c = lua_touserdata(L, 1);
    lua_rawgeti(L, LUA_REGISTRYINDEX, c->ref);
    int nargs = c->push(L, c->arg);
    if (c->task)
        task_new(L, c->rt, nargs);
    else if (lua_pcall(L, nargs, 0, 0))
        runtime_uncaught(c->rt, L, "a callback");
    return 0;
}

static void
callback_protected(struct callback *c)
{
    struct runtime *rt = c->rt;
    if (c->ref == LUA_NOREF || rt->closing)
        return;
    struct task *current = rt->current;
    rt->current = NULL; /* what is called here is no task and cannot wait */
    must(lua_cpcall(rt->L, callback_run, c) == 0);
    rt->current = current;
}

void
runtime_callback(struct runtime *rt, int ref, push_fn push, void *arg)
{
    struct callback c = {.rt = rt, .ref = ref, .push = push, .arg = arg};
    callback_protected(&c);
}

void
runtime_callback_task(struct runtime *rt, int ref, push_fn push, void *arg)
{
    struct callback c = {.rt = rt, .ref = ref, .push = push, .arg = arg, .task = true};
    callback_protected(&c);
}

static int
push_signal_name(lua_State *L, void *arg)
{
    lua_pushstring(L, arg);
    return 1;
}

/* Without a handler of the script's, INT and TERM cancel the main task, a second one ends it; HUP (a
 * lost terminal) changes nothing. */
static void
runtime_on_signal(void *arg, int signum)
{
    struct runtime *rt = arg;
    int i = 0;
    while (signals[i].signum != signum)
        i++;
    if (rt->handlers[i] != LUA_NOREF)
        runtime_callback_task(rt, rt->handlers[i], push_signal_name, (void *)signals[i].name);
    else if (signum != SIGHUP && rt->interrupts++ == 0)
        task_cancel(rt->main);
    else if (signum != SIGHUP) {
        rt->stranded = "interrupted";
        loop_stop(rt->loop);
    }
}

static int
runtime_drain(lua_State *L)
{
    struct runtime *rt = lua_touserdata(L, 1);
    struct task *last = rt->ready_last;
    /* Only those that are ready now: a task that is ready again at once must not starve the loop. */
    for (struct task *t = rt->ready_first, *next; t; t = next) {
        next = t == last ? NULL : t->ready_next;
        rt->ready_first = t->ready_next;
        if (!rt->ready_first)
            rt->ready_last = NULL;
        t->ready_next = NULL;
        t->ready = false;
        task_step(L, t);
    }
    return 0;
}

void
runtime_ready(struct runtime *rt, struct task *t)
{
    if (t->ready || t->done)
        return;
    t->ready = true;
    if (rt->ready_last)
        rt->ready_last->ready_next = t;
    else
        rt->ready_first = t;
    rt->ready_last = t;
    if (rt->turning)
        loop_stop(rt->loop); /* what is ready must not wait for the loop's next event */
}

static void
nothing(void *arg)
{
    (void)arg;
}

void
runtime_keep_alive(struct runtime *rt)
{
    bool wanted = false;
    for (int i = 0; i < RUNTIME_SIGNALS; i++)
        wanted = wanted || rt->handlers[i] != LUA_NOREF;
    if (wanted && !rt->keep)
        timer_every(&rt->keep, rt->loop, 3600000, nothing, NULL);
    if (!wanted) {
        timer_free(rt->keep);
        rt->keep = NULL;
    }
}

static int
runtime_open(struct runtime *rt, struct err *e)
{
    int rc = loop_new(&rt->loop, e);
    if (rc)
        return rc;
    for (int i = 0; i < RUNTIME_SIGNALS; i++)
        sigwatch_start(&rt->signals[i], rt->loop, signals[i].signum, runtime_on_signal, rt);
    runtime_keep_alive(rt);
    return 0;
}

static void
runtime_close_loop(struct runtime *rt)
{
    timer_free(rt->keep);
    rt->keep = NULL;
    for (int i = 0; i < RUNTIME_SIGNALS; i++) {
        sigwatch_free(rt->signals[i]);
        rt->signals[i] = NULL;
    }
    resolve_end(rt);
    while (rt->jobs > 0)
        loop_turn(rt->loop, true);
    if (rt->loop)
        rt->handles_left = loop_handles(rt->loop);
    loop_free(rt->loop);
    rt->loop = NULL;
}

/* The main task is over: the others see their operation cancelled and run until they would wait again;
 * then everything that is open is closed. */
static int
runtime_end_tasks(lua_State *L)
{
    struct runtime *rt = lua_touserdata(L, 1);
    rt->closing = true;
    for (struct task *t = rt->tasks; t; t = t->next)
        if (t != rt->main)
            task_cancel(t);
    while (rt->ready_first) {
        lua_pushcfunction(L, runtime_drain);
        lua_pushlightuserdata(L, rt);
        lua_call(L, 1, 0);
    }
    while (rt->tasks)
        task_abandon(rt->tasks);
    while (rt->objects) {
        struct open_object *o = rt->objects;
        runtime_forget(rt, o);
        o->close(o);
    }
    for (int i = 0; i < RUNTIME_SIGNALS; i++) {
        luaL_unref(L, LUA_REGISTRYINDEX, rt->handlers[i]);
        rt->handlers[i] = LUA_NOREF;
    }
    return 0;
}

bool
runtime_outside(struct runtime *rt, void (*fn)(void *arg), void *arg)
{
    if (rt->objects || !rt->tasks || rt->tasks->next)
        return false;
    rt->outside.fn = fn;
    rt->outside.arg = arg;
    return true;
}

/* Runs what is ready, then what the loop has; waits only when nothing is ready. */
static bool
runtime_turn(struct runtime *rt)
{
    must(lua_cpcall(rt->L, runtime_drain, rt) == 0);
    if (rt->main->done || rt->stranded || rt->outside.fn)
        return true;
    rt->turning = true;
    bool more = loop_turn(rt->loop, rt->ready_first == NULL);
    rt->turning = false;
    return more || rt->ready_first;
}

static int
runtime_run(struct runtime *rt, struct err *e)
{
    while (!rt->main->done && !rt->stranded) {
        bool more = runtime_turn(rt);
        if (rt->outside.fn) {
            void (*fn)(void *arg) = rt->outside.fn;
            rt->outside.fn = NULL;
            runtime_close_loop(rt);
            fn(rt->outside.arg);
            if (runtime_open(rt, e))
                return e->code;
        } else if (!more && !rt->main->done && !rt->stranded)
            rt->stranded = "the main task waits and nothing is left that could end the wait";
    }
    return 0;
}

/* mr.main(fn, ...) -> what fn returns. Runs fn as the main task and the loop until it ends; then
 * cancels what is left and closes everything. An error of fn is raised again as it was. */
int
runtime_main(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TFUNCTION);
    struct runtime *rt = runtime_of(L);
    if (rt->loop)
        return luaL_error(L, "main: it runs already");
    struct err e = {0};
    int rc = runtime_open(rt, &e);
    rt->L = L;
    rt->closing = false;
    rt->stranded = NULL;
    rt->interrupts = 0;
    if (rc == 0) {
        rt->main = task_new(L, rt, lua_gettop(L) - 1);
        rc = runtime_run(rt, &e);
        must(lua_cpcall(L, runtime_end_tasks, rt) == 0);
    }
    struct task *t = rt->main;
    runtime_close_loop(rt);
    rt->main = NULL;
    if (rc) {
        error_push(L, &e);
        return lua_error(L);
    }
    if (!t->done) {
        error_pushf(L, ERR_CANCELLED, "%s", rt->stranded);
        return lua_error(L);
    }
    if (t->failed) {
        task_push_raised(L, t);
        return lua_error(L);
    }
    return task_push_results(L, t);
}

/* mr._handles() -> handles that are open, or that the last main task left open. */
int
runtime_handles(lua_State *L)
{
    struct runtime *rt = runtime_of(L);
    lua_pushinteger(L, rt->loop ? loop_handles(rt->loop) : rt->handles_left);
    return 1;
}
