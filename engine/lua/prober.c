#include "bind.h"
#include "objects.h"
#include "params.h"
#include "resolve.h"
#include "runtime.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"
#include "moonrise/loop/loop.h"
#include "moonrise/probe/prober.h"

#include <stdlib.h>
#include <string.h>

#define PROBER "moonrise.Prober"

struct object {
    struct open_object open; /* first: the runtime closes it */
    struct runtime *rt;
    struct prober *prober; /* NULL once closed */
    int observed_ref;
    struct lookup *lookups;
};

/* A host name that is being looked up. That cannot be stopped: it may outlive the prober. */
struct lookup {
    struct lookup *next;
    struct object *object; /* NULL once the prober is closed */
    uint64_t ticket;
    struct params params;
};

static void
object_close(struct open_object *o)
{
    struct object *p = (struct object *)o;
    prober_free(p->prober);
    p->prober = NULL;
    for (; p->lookups; p->lookups = p->lookups->next)
        p->lookups->object = NULL;
    luaL_unref(p->rt->L, LUA_REGISTRYINDEX, p->observed_ref);
    p->observed_ref = LUA_NOREF;
}

static void
set_known(lua_State *L, const char *key, const char *text)
{
    if (*text)
        set_text(L, key, text);
}

static void
set_peer(lua_State *L, const struct observation *o)
{
    if (!o->peer)
        return;
    lua_createtable(L, 0, 6);
    set_known(L, "name", o->peer_name);
    set_known(L, "state", o->peer_state);
    set_known(L, "sync", o->peer_sync);
    set_number(L, "sent_lsn", (double)o->peer_sent_lsn);
    set_number(L, "flush_lsn", (double)o->peer_flush_lsn);
    set_number(L, "replay_lsn", (double)o->peer_replay_lsn);
    lua_setfield(L, -2, "peer");
}

/* What an instance that answered said about itself. */
static void
set_answer(lua_State *L, const struct observation *o)
{
    set_bool(L, "in_recovery", o->in_recovery);
    set_number(L, "timeline", o->timeline);
    set_known(L, "sysid", o->sysid);
    set_number(L, "lsn", (double)o->lsn);
    set_text(L, "sync_names", o->sync_names);
    set_known(L, "sync_commit", o->sync_commit);
    if (o->in_recovery) {
        set_number(L, "replay_lsn", (double)o->replay_lsn);
        set_bool(L, "replay_paused", o->replay_paused);
        set_bool(L, "receiver", o->receiver);
        if (o->received_ms >= 0)
            set_number(L, "received_ms", (double)o->received_ms);
    } else {
        set_peer(L, o);
        set_number(L, "waiting", o->waiting);
    }
}

static int
push_observation(lua_State *L, void *arg)
{
    const struct observation *o = arg;
    lua_createtable(L, 0, 16);
    set_number(L, "dbid", o->dbid);
    set_known(L, "evidence", evidence_name(o->evidence));
    set_bool(L, "fresh", o->fresh);
    set_number(L, "at", (double)o->at_ms);
    set_number(L, "took", (double)o->took_ms);
    set_known(L, "sqlstate", o->sqlstate);
    set_known(L, "message", o->message);
    if (o->evidence == EVIDENCE_NONE)
        set_answer(L, o);
    return 1;
}

static void
prober_observed(void *arg, const struct observation *o)
{
    struct object *p = arg;
    runtime_callback(p->rt, p->observed_ref, push_observation, (void *)o);
}

static void
lookup_found(void *arg, const struct resolution *found)
{
    struct lookup *l = arg;
    struct object *p = l->object;
    if (p) {
        bool known = params_resolve(&l->params, found);
        struct conn_params params = params_borrow(&l->params);
        struct lookup **at = &p->lookups;
        while (*at != l)
            at = &(*at)->next;
        *at = l->next;
        prober_found(p->prober, l->ticket, known ? &params : NULL);
    }
    params_done(&l->params);
    free(l);
}

static bool
lookup_begin(void *arg, uint64_t ticket, const struct conn_params *params)
{
    struct object *p = arg;
    struct lookup *l = mem_zalloc(sizeof(*l));
    struct err e;
    l->object = p;
    l->ticket = ticket;
    for (size_t i = 0; params->keywords[i]; i++)
        params_set(&l->params, params->keywords[i], params->values[i]);
    if (resolve_start(p->rt, params_get(&l->params, "host"), lookup_found, l, &e)) {
        params_done(&l->params);
        free(l);
        return false;
    }
    l->next = p->lookups;
    p->lookups = l;
    return true;
}

/* mr.prober(options) -> Prober */
int
prober_open(lua_State *L)
{
    static const char *const known[] = {"interval_ms", "timeout_ms", "fresh_ms", "observed", NULL};
    luaL_checktype(L, 1, LUA_TTABLE);
    opt_table(L, 1, known);
    struct runtime *rt = runtime_running(L, "prober");
    struct prober_spec spec = {.interval_ms = (int64_t)opt_number(L, 1, "interval_ms", 1000),
                               .timeout_ms = (int64_t)opt_number(L, 1, "timeout_ms", 2000),
                               .fresh_ms = (int64_t)opt_number(L, 1, "fresh_ms", 5000),
                               .observed = prober_observed,
                               .find = lookup_begin};
    luaL_argcheck(L, spec.interval_ms > 0 && spec.timeout_ms > 0, 1,
                  "options.interval_ms, options.timeout_ms: at least 1");
    if (!opt_function(L, 1, "observed"))
        return luaL_argerror(L, 1, "options.observed: function expected");
    int ref = luaL_ref(L, LUA_REGISTRYINDEX);
    struct object *p = class_new(L, PROBER, sizeof(*p));
    p->rt = rt;
    p->observed_ref = ref;
    p->lookups = NULL;
    p->open.close = object_close;
    spec.arg = p;
    prober_new(&p->prober, rt->loop, &spec);
    runtime_own(rt, &p->open);
    return 1;
}

static struct object *
prober_check(lua_State *L)
{
    return luaL_checkudata(L, 1, PROBER);
}

static struct object *
prober_check_open(lua_State *L)
{
    struct object *p = prober_check(L);
    if (!p->prober)
        luaL_argerror(L, 1, "the prober is closed");
    return p;
}

/* Prober:set(dbid, {conn, sysid, peer_slot, standby}) */
static int
l_set(lua_State *L)
{
    static const char *const known[] = {"conn", "sysid", "peer_slot", "standby", NULL};
    struct object *p = prober_check_open(L);
    int dbid = (int)luaL_checkinteger(L, 2);
    luaL_checktype(L, 3, LUA_TTABLE);
    opt_table(L, 3, known);
    struct target_spec spec = {.dbid = dbid,
                               .sysid = opt_text(L, 3, "sysid", NULL),
                               .peer_slot = opt_text(L, 3, "peer_slot", NULL)};
    lua_getfield(L, 3, "standby");
    spec.standby = lua_toboolean(L, -1);
    lua_pop(L, 1);
    lua_getfield(L, 3, "conn");
    luaL_argcheck(L, lua_istable(L, -1), 3, "target.conn: table expected");
    struct params params;
    params_read(L, 3, lua_gettop(L), &params);
    spec.params = params_borrow(&params);
    spec.named = params_need_lookup(&params);
    prober_set(p->prober, &spec);
    params_done(&params);
    return 0;
}

/* Prober:drop(dbid) */
static int
l_drop(lua_State *L)
{
    prober_drop(prober_check_open(L)->prober, (int)luaL_checkinteger(L, 2));
    return 0;
}

/* Prober:now(dbid) */
static int
l_now(lua_State *L)
{
    prober_now(prober_check_open(L)->prober, (int)luaL_checkinteger(L, 2));
    return 0;
}

/* Prober:close() */
static int
l_close(lua_State *L)
{
    struct object *p = prober_check(L);
    if (p->prober) {
        runtime_forget(p->rt, &p->open);
        object_close(&p->open);
    }
    return 0;
}

void
prober_register(lua_State *L)
{
    static const luaL_Reg methods[] = {
        {"set", l_set}, {"drop", l_drop}, {"now", l_now}, {"close", l_close}, {NULL, NULL}};
    class_register(L, PROBER, methods, l_close);
}
