#include "box.h"

#include "plain.h"

#include "moonrise/base/err.h"

#include <lauxlib.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    HOOK_COUNT = 100,           /* instructions between two looks at the clock */
    WALL_FACTOR = 20,           /* wall time for one of processor time, on a machine that is busy */
    BIG_BLOCK_BYTES = 64 << 10, /* from here an allocation looks at the clock too */
    STACK_BYTES = 256 << 10,    /* of the C stack, for callbacks inside callbacks */
};

static int64_t
clock_ns(clockid_t id)
{
    struct timespec ts;
    clock_gettime(id, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

/* The budget is processor time, so that a machine that is busy with other things makes no policy fail;
 * wall time bounds it all the same. The second clock is a system call and is asked only when needed. */
static bool
box_late(const struct box *b)
{
    int64_t budget_ns = (int64_t)(b->time_ms * 1e6);
    int64_t wall_ns = clock_ns(CLOCK_MONOTONIC) - b->start_ns;
    if (wall_ns < budget_ns)
        return false;
    return wall_ns > WALL_FACTOR * budget_ns ||
           clock_ns(CLOCK_THREAD_CPUTIME_ID) - b->cpu_start_ns > budget_ns;
}

/* The limit counts the whole state. No single block may be over an eighth of it: what one instruction
 * does to one block bounds how long the hook has to wait. */
static void *
box_alloc(void *ud, void *block, size_t old_bytes, size_t new_bytes)
{
    struct box *b = ud;
    if (new_bytes == 0) {
        b->used_bytes -= old_bytes;
        free(block);
        return NULL;
    }
    if (new_bytes > old_bytes) {
        if (b->used_bytes - old_bytes + new_bytes > b->memory_bytes ||
            new_bytes > b->memory_bytes / 8) {
            b->hit = BOX_HIT_MEMORY;
            return NULL;
        }
        if (new_bytes >= BIG_BLOCK_BYTES && b->start_ns && box_late(b)) {
            b->hit = BOX_HIT_TIME;
            return NULL;
        }
    }
    void *moved = realloc(block, new_bytes);
    if (moved)
        b->used_bytes += new_bytes - old_bytes;
    return moved;
}

struct box *
box_of(lua_State *L)
{
    void *ud;
    lua_getallocf(L, &ud);
    return ud;
}

/* Raises in every instruction from now on, so that a pcall around a loop cannot swallow it. */
static void
box_hook(lua_State *L, lua_Debug *ar)
{
    struct box *b = box_of(L);
    (void)ar;
    if (b->hit == BOX_HIT_NONE && !box_late(b))
        return;
    if (b->hit == BOX_HIT_NONE)
        b->hit = BOX_HIT_TIME;
    lua_sethook(L, box_hook, LUA_MASKCOUNT, 1);
    luaL_where(L, 0); /* in a hook that is the chunk's function, in a guard its caller is */
    if (lua_objlen(L, -1) == 0)
        luaL_where(L, 1);
    lua_pushliteral(L, "limit");
    lua_concat(L, 2);
    lua_error(L);
}

void
box_guard(lua_State *L)
{
    struct box *b = box_of(L);
    const char *here = __builtin_frame_address(0);
    box_hook(L, NULL);
    if (b->stack - here > STACK_BYTES)
        luaL_error(L, "callbacks nested too deep");
}

/* Where the error on top of the stack was raised and what it says; nothing here allocates or calls. */
static int
box_fail(struct box *b, struct err *e)
{
    const char *text = lua_type(b->L, -1) == LUA_TSTRING ? lua_tostring(b->L, -1) : NULL;
    char other[64];
    if (!text) {
        snprintf(other, sizeof(other), "%s: a %s was raised", b->name + 1,
                 lua_typename(b->L, lua_type(b->L, -1)));
        text = other;
    }
    const char *limit = strstr(text, ": limit");
    int place = limit ? (int)(limit - text) : (int)strlen(b->name + 1);
    if (b->hit == BOX_HIT_TIME)
        err_set(e, ERR_LIMIT, "%.*s: it ran longer than %g ms", place, limit ? text : b->name + 1,
                b->time_ms);
    else if (b->hit == BOX_HIT_MEMORY)
        err_set(e, ERR_LIMIT, "%s: it used more than %zu KiB of memory", b->name + 1,
                b->memory_bytes >> 10);
    else if (strncmp(text, b->name + 1, strlen(b->name + 1)) == 0)
        err_set(e, ERR_ARGUMENT, "%s", text);
    else
        err_set(e, ERR_ARGUMENT, "%s: %s", b->name + 1, text);
    return e->code;
}

int
box_run(struct box *b, lua_CFunction fn, void *arg, struct err *e)
{
    b->hit = BOX_HIT_NONE;
    b->start_ns = clock_ns(CLOCK_MONOTONIC);
    b->cpu_start_ns = clock_ns(CLOCK_THREAD_CPUTIME_ID);
    b->stack = __builtin_frame_address(0);
    lua_settop(b->L, 0);
    lua_sethook(b->L, box_hook, LUA_MASKCOUNT, HOOK_COUNT);
    int rc = lua_cpcall(b->L, fn, arg);
    lua_sethook(b->L, NULL, 0, 0);
    b->start_ns = 0;
    if (rc == 0 && b->hit == BOX_HIT_NONE)
        return 0;
    if (rc == 0) /* the chunk caught the error of a limit and went on: its answer is not trusted */
        lua_pushnil(b->L);
    rc = box_fail(b, e);
    if (b->hit != BOX_HIT_NONE)
        box_drop(b);
    else
        lua_settop(b->L, 0);
    return rc;
}

struct build {
    struct box *box;
    lua_State *data;
    int index;
    bool syntax; /* the error is one of syntax */
};

static int
box_build(lua_State *L)
{
    struct build *build = lua_touserdata(L, 1);
    luaL_checkstack(L, 2 * PLAIN_STACK, "sandbox");
    if (build->index)
        plain_copy(build->data, build->index, L);
    else
        lua_newtable(L);
    box_push_env(L);
    lua_rawseti(L, LUA_REGISTRYINDEX, BOX_ENV);
    build->syntax = true;
    if (build->box->source[0] == LUA_SIGNATURE[0])
        luaL_error(L, "bytecode is not allowed");
    if (luaL_loadbufferx(L, build->box->source, build->box->source_len, build->box->name, "t"))
        return lua_error(L);
    build->syntax = false;
    lua_rawgeti(L, LUA_REGISTRYINDEX, BOX_ENV);
    lua_setfenv(L, -2);
    lua_call(L, 0, 1);
    lua_pushboolean(L, false);
    lua_rawseti(L, LUA_REGISTRYINDEX, BOX_ANSWER);
    if (lua_isnil(L, -1))
        luaL_error(L, "%s: it returns nothing", build->box->name + 1);
    lua_rawseti(L, LUA_REGISTRYINDEX, BOX_CHUNK);
    return 0;
}

int
box_ensure(struct box *b, lua_State *data, int index, struct err *e)
{
    if (b->L)
        return 0;
    struct build build = {.box = b, .data = data, .index = index};
    b->used_bytes = 0;
    b->hit = BOX_HIT_NONE;
    b->start_ns = 0;
    b->L = lua_newstate(box_alloc, b);
    if (!b->L)
        return err_set(e, ERR_LIMIT, "%s: no Lua state in %zu KiB of memory", b->name + 1,
                       b->memory_bytes >> 10);
    /* Collect early: there is no collection in an emergency, garbage counts as used. */
    lua_gc(b->L, LUA_GCSETPAUSE, 120);
    lua_gc(b->L, LUA_GCSETSTEPMUL, 400);
    int top = data ? lua_gettop(data) : 0;
    int rc = box_run(b, box_build, &build, e);
    if (data)
        lua_settop(data, top);
    if (rc && build.syntax && rc != ERR_LIMIT)
        rc = e->code = ERR_FORMAT;
    if (rc)
        box_drop(b);
    return rc;
}

void
box_drop(struct box *b)
{
    if (b->L)
        lua_close(b->L);
    b->L = NULL;
}
