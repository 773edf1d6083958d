/*
 * The runtime: one loop and the tasks on it.
 *
 * A task is a Lua coroutine. A bound function that waits starts its operation, says so with task_wait
 * and yields; when the operation ends, in a callback of the loop, wait_end puts its results on the
 * coroutine's stack and the task runs again from the ready queue, never inside that callback.
 *
 * Private to engine/lua; loop thread only.
 */
#ifndef MOONRISE_ENGINE_LUA_RUNTIME_H
#define MOONRISE_ENGINE_LUA_RUNTIME_H

#include <lua.h>
#include <stdbool.h>
#include <stdint.h>

struct loop;
struct runtime;
struct sigwatch;
struct task;
struct timer;

/* An operation a task waits for; the first member of the operation's own struct, on the heap. */
struct wait {
    struct task *task; /* NULL once nobody waits any more */
    /* The task is cancelled or its time is up. True: the operation is stopped and freed, or frees
     * itself later (`task` is NULL then). False, only when not `force`: it calls wait_end soon. */
    bool (*cancel)(struct wait *w, bool force);
    const char *what;         /* for messages: "the queue" */
    bool pace;                /* nobody else is to answer: its time is our own */
    struct wait *prev, *next; /* free for the operation's own lists */
};

/* Something that holds handles of the loop; closed when the main task ends. */
struct open_object {
    struct open_object *prev, *next;
    void (*close)(struct open_object *o);
};

enum { RUNTIME_SIGNALS = 3 };

struct runtime {
    lua_State *L;       /* the state that called mr.main */
    struct loop *loop;  /* NULL outside of mr.main */
    struct timer *keep; /* keeps the loop alive while a script handles signals */
    bool turning;       /* the loop is calling back */
    bool closing;
    struct resolving *resolving; /* host names that are looked up */
    int jobs;                    /* threads whose end is awaited before the loop goes away */
    bool verbose;                /* tracebacks with errors nobody caught */
    struct task *current;
    struct task *main;
    struct task *tasks;
    struct task *ready_first, *ready_last;
    struct open_object *objects;
    struct sigwatch *signals[RUNTIME_SIGNALS];
    int handlers[RUNTIME_SIGNALS]; /* references of script functions, or LUA_NOREF */
    int interrupts;
    int handles_left;     /* when the last main task had ended: more than 0 is a leak */
    const char *stranded; /* why the main task will never run again, or NULL */
    struct {
        void (*fn)(void *arg);
        void *arg;
    } outside; /* to be run while no loop exists */
};

/* How a task tells somebody in C that it ended; called once, on rt->L inside a protected call. `arg`
 * is on the heap: `ended` frees it, or task_abandon. */
struct task_hook {
    void (*ended)(void *arg, struct task *t, lua_State *L);
    void *arg;
};

struct task {
    struct runtime *rt;
    lua_State *co;
    struct task *prev, *next; /* of rt->tasks */
    struct task *ready_next;
    int nargs; /* results of the wait, on the stack of `co` */
    struct wait *wait;
    struct wait *joiners;
    struct timer *timer;
    struct task_hook hook;
    bool ready, started, done, failed, cancelled, seen;
};

typedef int (*push_fn)(lua_State *L, void *arg);

/* The runtime of a Lua state; made by the module. */
struct runtime *runtime_of(lua_State *L);

/* The same, raising outside of mr.main: for what opens handles. */
struct runtime *runtime_running(lua_State *L, const char *what);

void runtime_register(lua_State *L);

/* mr.main(fn, ...), mr._handles(). */
int runtime_main(lua_State *L);
int runtime_handles(lua_State *L);

/* Lists an object that is to be closed at the end; runtime_forget takes it off. */
void runtime_own(struct runtime *rt, struct open_object *o);
void runtime_forget(struct runtime *rt, struct open_object *o);

/* Ends the loop, calls fn(arg) while there is none, and goes on with a new one: for a fork. The caller
 * then waits. False when something else than the current task is open. */
bool runtime_outside(struct runtime *rt, void (*fn)(void *arg), void *arg);

/* Keeps the loop alive while there is any script function in rt->handlers. */
void runtime_keep_alive(struct runtime *rt);

/* The number of a signal's place in `handlers` ("INT", "TERM", "HUP"), or -1. */
int runtime_signal(const char *name);

/* Keeps the value at `index` from being collected until runtime_release. */
void runtime_anchor(lua_State *L, const void *key, int index);
void runtime_anchored(lua_State *L, const void *key); /* pushes it */
void runtime_release(lua_State *L, const void *key);

/* Calls function `ref` now with what `push` pushes; it must not wait. An error is written to standard
 * error and goes no further. */
void runtime_callback(struct runtime *rt, int ref, push_fn push, void *arg);

/* The same in a task of its own, which may wait. */
void runtime_callback_task(struct runtime *rt, int ref, push_fn push, void *arg);

/* Writes an error nobody caught (on top of the stack) to standard error. */
void runtime_uncaught(struct runtime *rt, lua_State *L, const char *where);

void runtime_ready(struct runtime *rt, struct task *t);

/* In task.c. Registers class Task. */
void task_register(lua_State *L);

/* Pops a function and `nargs` arguments, pushes a Task that will run it. */
struct task *task_new(lua_State *L, struct runtime *rt, int nargs);

/* Runs a ready task until it waits or ends; in a protected call on L. */
void task_step(lua_State *L, struct task *t);

/* Pushes what a task that ended left: its results, or nil and an error value. Marks it as seen. */
int task_push_results(lua_State *L, struct task *t);

/* Pushes the very value that a failed task raised. */
void task_push_raised(lua_State *L, struct task *t);

void task_cancel(struct task *t);

/* Takes the task out of everything, whatever it waits for; it never runs again. */
void task_abandon(struct task *t);

/*
 * Begins a wait: finds the task that L runs, or raises when L is no task. 0: go on, start the
 * operation, return task_wait(). Otherwise the bound function returns this number at once (the task was
 * cancelled before, or the program is ending).
 */
int task_enter(lua_State *L, const char *name, struct task **out);

/* Suspends: `return task_wait(L, t, &op->wait, timeout_ms, anchor);`. timeout_ms < 0 is none; when it
 * passes the operation is cancelled by force and the result is nil and "timeout". The value at stack
 * index `anchor` (0: none) is kept until the wait ends. */
int task_wait(lua_State *L, struct task *t, struct wait *w, int64_t timeout_ms, int anchor);

/* Ends a wait with what `push` pushes (NULL: true). False when nobody waits any more, or never did: the
 * task that began it could not suspend and runs. */
bool wait_end(struct wait *w, push_fn push, void *arg);

/* wait_end with nil and an error value made from the `struct err` at arg. */
int push_error(lua_State *L, void *arg);

/* mr.spawn, mr.sleep, mr.parallel, mr.queue. */
int task_spawn(lua_State *L);
int sleep_for(lua_State *L);
int parallel_run(lua_State *L);
int queue_new(lua_State *L);
void queue_register(lua_State *L);

#endif
