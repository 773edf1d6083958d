/*
 * The Lua state of a sandbox: nothing but the allowed names, a budget of time and of memory. Private to
 * engine/lua.
 *
 * There is no compiler in it (the jit library is never opened), so the count hook sees every
 * instruction; what runs in C behind one instruction is guarded on its own. A state that hit a limit is
 * thrown away.
 */
#ifndef MOONRISE_ENGINE_LUA_BOX_H
#define MOONRISE_ENGINE_LUA_BOX_H

#include <lua.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

enum box_hit { BOX_HIT_NONE, BOX_HIT_TIME, BOX_HIT_MEMORY };

/* Places in the registry of the state. */
enum { BOX_ENV = 1, BOX_CHUNK, BOX_ANSWER };

struct box {
    lua_State *L; /* NULL while there is none */
    char *source;
    size_t source_len;
    char *name; /* "@failover.lua" */
    double time_ms;
    size_t memory_bytes;
    /* The running call: */
    size_t used_bytes;
    int64_t start_ns, cpu_start_ns;
    const char *stack; /* where the C stack was when it began */
    enum box_hit hit;
};

/* Makes the state and runs the chunk, unless that is done. `data` is the state and `index` the place of a
 * table whose plain members become globals, or 0. ERR_FORMAT (syntax), ERR_LIMIT, ERR_ARGUMENT
 * ("raised" to scripts) when the chunk raised. */
int box_ensure(struct box *b, lua_State *data, int index, struct err *e);

/* Runs fn(L, arg) in the state: protected, with a budget of its own. After an error that was a limit the
 * state is gone. */
int box_run(struct box *b, lua_CFunction fn, void *arg, struct err *e);

/* Throws the state away. */
void box_drop(struct box *b);

/* In box_env.c: pushes the table that a chunk sees as its globals; `real` (under it on the stack, popped)
 * are the names with data. Raises. */
void box_push_env(lua_State *L);

/* Raises when the budget is used up or the C stack is too deep: for C functions that may take long. */
void box_guard(lua_State *L);

struct box *box_of(lua_State *L);

#endif
