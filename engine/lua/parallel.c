#include "bind.h"
#include "runtime.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"

#include <stdlib.h>

/* Places in the table that a run anchors under its own address. */
enum { PARALLEL_ITEMS = 1, PARALLEL_FN, PARALLEL_RESULTS };

struct parallel {
    struct wait wait;
    struct runtime *rt;
    int next, count, running;
    bool stopped;
    bool told; /* an item failed since then */
};

/* One item's task; its hook's argument. */
struct strand {
    struct parallel *run;
    int index;
};

static void parallel_start(lua_State *L, struct parallel *p);

static int
push_results(lua_State *L, void *arg)
{
    runtime_anchored(L, arg);
    lua_rawgeti(L, -1, PARALLEL_RESULTS);
    lua_remove(L, -2);
    return 1;
}

/* results[index] = what is on top, as it is or as {error = it}. */
static void
parallel_store(lua_State *L, struct parallel *p, int index, bool failed)
{
    if (failed) {
        lua_createtable(L, 0, 1);
        lua_insert(L, -2);
        lua_setfield(L, -2, "error");
    }
    push_results(L, p);
    lua_insert(L, -2);
    lua_rawseti(L, -2, index);
    lua_pop(L, 1);
}

static void
strand_ended(void *arg, struct task *t, lua_State *L)
{
    struct strand *s = arg;
    struct parallel *p = s->run;
    int top = lua_gettop(L);
    lua_settop(L, top + task_push_results(L, t));
    lua_settop(L, top + 2);
    bool failed = t->failed || (lua_isnil(L, top + 1) && !lua_isnil(L, top + 2));
    if (!failed)
        lua_settop(L, top + 1);
    parallel_store(L, p, s->index, failed);
    p->told = p->told || (p->stopped && failed);
    lua_settop(L, top);
    p->running--;
    free(s);
    parallel_start(L, p);
    if (p->running == 0) {
        /* What an item lost by the cancel tells of it; if all ended well the caller's next wait does. */
        if (p->told && p->wait.task)
            p->wait.task->cancelled = false;
        wait_end(&p->wait, push_results, p);
        runtime_release(L, p);
        free(p);
    }
}

static void
parallel_start_one(lua_State *L, struct parallel *p)
{
    struct strand *s = mem_zalloc(sizeof(*s));
    s->run = p;
    s->index = ++p->next;
    runtime_anchored(L, p);
    lua_rawgeti(L, -1, PARALLEL_FN);
    lua_rawgeti(L, -2, PARALLEL_ITEMS);
    lua_rawgeti(L, -1, s->index);
    lua_remove(L, -2);
    lua_pushinteger(L, s->index);
    struct task *t = task_new(L, p->rt, 2);
    t->hook.ended = strand_ended;
    t->hook.arg = s;
    p->running++;
    lua_pop(L, 2);
}

/* Starts the next item; when the run was stopped, all that are left count as cancelled. */
static void
parallel_start(lua_State *L, struct parallel *p)
{
    for (; p->stopped && p->next < p->count; p->next++) {
        error_pushf(L, ERR_CANCELLED, "cancelled before it began");
        parallel_store(L, p, p->next + 1, true);
        p->told = true;
    }
    if (p->next < p->count)
        parallel_start_one(L, p);
}

/* Cancels the items that run; the run ends when they have. By force: they are left to themselves. */
static bool
parallel_cancel(struct wait *w, bool force)
{
    struct parallel *p = (struct parallel *)w;
    p->stopped = true;
    for (struct task *t = p->rt->tasks; t; t = t->next) {
        struct strand *s = t->hook.arg;
        if (t->hook.ended != strand_ended || s->run != p)
            continue;
        if (force) {
            t->hook.ended = NULL;
            free(s);
        }
        task_cancel(t);
    }
    if (!force)
        return false;
    runtime_release(p->rt->L, p);
    free(p);
    return true;
}

/* mr.parallel(items, limit, fn) -> results */
int
parallel_run(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    int limit = (int)luaL_checkinteger(L, 2);
    luaL_argcheck(L, limit > 0, 2, "limit: at least 1");
    luaL_checktype(L, 3, LUA_TFUNCTION);
    struct task *t;
    int rc = task_enter(L, "parallel", &t);
    if (rc)
        return rc;
    lua_settop(L, 3);
    lua_createtable(L, 3, 0);
    lua_pushvalue(L, 1);
    lua_rawseti(L, 4, PARALLEL_ITEMS);
    lua_pushvalue(L, 3);
    lua_rawseti(L, 4, PARALLEL_FN);
    lua_newtable(L);
    lua_pushvalue(L, -1);
    lua_rawseti(L, 4, PARALLEL_RESULTS);
    if (lua_objlen(L, 1) == 0)
        return 1;
    struct parallel *p = mem_zalloc(sizeof(*p));
    p->wait.cancel = parallel_cancel;
    p->wait.what = "parallel tasks";
    p->rt = t->rt;
    p->count = (int)lua_objlen(L, 1);
    runtime_anchor(L, p, 4);
    while (p->running < limit && p->next < p->count)
        parallel_start(L, p);
    return task_wait(L, t, &p->wait, -1, 0);
}
