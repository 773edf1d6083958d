#include "bind.h"
#include "objects.h"
#include "runtime.h"

#include "moonrise/base/err.h"
#include "moonrise/wire/relay.h"
#include "moonrise/wire/ssh.h"

#include <stdlib.h>

#define RELAY "moonrise.Relay"

/* Until a program on another host is started. */
enum { CONNECT_MS = 10000 };

struct object {
    struct open_object open; /* first: the runtime closes it */
    struct runtime *rt;
    struct relay *relay; /* NULL once closed */
    struct err why;      /* once it is */
};

static void
object_close(struct open_object *o)
{
    struct object *r = (struct object *)o;
    if (r->relay)
        relay_why(r->relay, &r->why);
    relay_close(r->relay);
    r->relay = NULL;
}

/* This program, its first word being where it is here; *there is to be freed with free(). */
static struct relay_leg
leg_of(const char ***there, const char *host, const char *const *words)
{
    *there = host ? ssh_moonrise(words[0], words + 1) : NULL;
    return (struct relay_leg){.host = host, .argv = host ? *there : words};
}

/* mr.relay(options) -> Relay, or nil, err */
int
relay_open(lua_State *L)
{
    static const char *const known[] = {"source", "target", "socket", "connect_ms", NULL};
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    opt_table(L, 1, known);
    struct runtime *rt = runtime_running(L, "relay");
    const char *socket = opt_text(L, 1, "socket", NULL);
    luaL_argcheck(L, socket, 1, "options.socket: path expected");
    const char *source = opt_text(L, 1, "source", NULL);
    const char *target = opt_text(L, 1, "target", NULL);
    int64_t connect_ms = (int64_t)opt_number(L, 1, "connect_ms", CONNECT_MS);
    struct object *r = class_new(L, RELAY, sizeof(*r));
    lua_getfield(L, LUA_REGISTRYINDEX, "moonrise.executable");
    const char *self = lua_tostring(L, -1), **feeder, **joint;
    const char *const feed[] = {self, "agent", "--feed", "relayed", NULL};
    const char *const join[] = {self, "agent", "--relay", socket, NULL};
    struct relay_spec spec = {.source = leg_of(&feeder, source, feed),
                              .target = leg_of(&joint, target, join),
                              .connect_ms = connect_ms};
    struct err e;
    r->rt = rt;
    r->open.close = object_close;
    int rc = relay_start(&r->relay, &spec, &e);
    free((void *)feeder);
    free((void *)joint);
    if (rc < 0) {
        r->relay = NULL;
        return error_return(L, &e);
    }
    runtime_own(rt, &r->open);
    lua_pop(L, 1);
    return 1;
}

/* Relay:why() -> Error or nil */
static int
l_why(lua_State *L)
{
    struct object *r = luaL_checkudata(L, 1, RELAY);
    if (r->relay)
        relay_why(r->relay, &r->why);
    if (r->why.code)
        error_push(L, &r->why);
    else
        lua_pushnil(L);
    return 1;
}

/* Relay:close() */
static int
l_close(lua_State *L)
{
    struct object *r = luaL_checkudata(L, 1, RELAY);
    if (r->relay) {
        runtime_forget(r->rt, &r->open);
        object_close(&r->open);
    }
    return 0;
}

void
relay_register(lua_State *L)
{
    static const luaL_Reg methods[] = {{"why", l_why}, {"close", l_close}, {NULL, NULL}};
    class_register(L, RELAY, methods, l_close);
}
