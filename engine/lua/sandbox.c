#include "bind.h"
#include "box.h"
#include "objects.h"
#include "plain.h"

#include "moonrise/base/err.h"
#include "moonrise/base/io.h"
#include "moonrise/base/path.h"
#include "moonrise/base/str.h"

#include <stdlib.h>
#include <string.h>

#define SANDBOX "moonrise.Sandbox"

enum { SOURCE_BYTES_MAX = 1 << 20 };

/* Where the object's environment table keeps the data that the chunk sees. */
enum { SANDBOX_DATA = 1 };

/* Where the object is on the stack of its methods. */
enum { SANDBOX_SELF = 1 };

struct sandbox {
    struct box box;
    bool closed;
};

static int
l_close(lua_State *L)
{
    struct sandbox *s = luaL_checkudata(L, 1, SANDBOX);
    box_drop(&s->box);
    free(s->box.source);
    free(s->box.name);
    s->box.source = s->box.name = NULL;
    s->closed = true;
    return 0;
}

/* What scripts see of an error: one of the chunk's own has code "raised". */
static int
sandbox_fail(lua_State *L, const struct err *e)
{
    error_return(L, e);
    if (e->code == ERR_ARGUMENT)
        set_text(L, "code", "raised");
    return 2;
}

static struct sandbox *
sandbox_check(lua_State *L)
{
    struct sandbox *s = luaL_checkudata(L, 1, SANDBOX);
    luaL_argcheck(L, !s->closed, 1, "the sandbox is closed");
    luaL_checkstack(L, 2 * PLAIN_STACK, "sandbox");
    return s;
}

/* Makes the state again when a limit ended it. */
static int
sandbox_ensure(lua_State *L, struct sandbox *s, struct err *e)
{
    lua_getfenv(L, SANDBOX_SELF);
    lua_rawgeti(L, -1, SANDBOX_DATA);
    int rc = box_ensure(&s->box, L, lua_gettop(L), e);
    lua_pop(L, 2);
    return rc;
}

/* Reads options.source or options.file; the name is for messages. */
static int
sandbox_read(lua_State *L, struct sandbox *s, struct err *e)
{
    const char *file = opt_text(L, 1, "file", NULL);
    const char *name = opt_text(L, 1, "name", file ? file : "sandbox");
    lua_getfield(L, 1, "source");
    s->box.name = mem_printf("@%s", name);
    if (!file) {
        const char *text = lua_tolstring(L, -1, &s->box.source_len);
        s->box.source = mem_alloc(s->box.source_len + 1);
        memcpy(s->box.source, text, s->box.source_len + 1);
        lua_pop(L, 1);
        return s->box.source_len > SOURCE_BYTES_MAX
                   ? err_set(e, ERR_LIMIT, "%s: longer than 1 MiB", name)
                   : 0;
    }
    lua_pop(L, 1);
    struct str text = STR_INIT;
    int rc = io_read_file(&text, file, SOURCE_BYTES_MAX, e);
    s->box.source_len = text.len;
    s->box.source = str_take(&text);
    return rc;
}

/* Stores a copy of options.env in the object at `object`. */
static void
sandbox_data(lua_State *L, int object)
{
    struct err e;
    lua_newtable(L);
    lua_getfield(L, 1, "env");
    if (lua_isnil(L, -1)) {
        lua_pop(L, 1);
        lua_newtable(L);
    } else if (!lua_istable(L, -1))
        luaL_argerror(L, 1, "options.env: table expected");
    if (plain_check(L, lua_gettop(L), "options.env", true, &e))
        luaL_argerror(L, 1, lua_pushfstring(L, "%s", e.message));
    plain_copy(L, lua_gettop(L), L);
    lua_rawseti(L, -3, SANDBOX_DATA);
    lua_pop(L, 1);
    lua_setfenv(L, object);
}

/* The numbers of the options; the object is pushed. */
static struct sandbox *
sandbox_new(lua_State *L)
{
    struct sandbox *s = class_new(L, SANDBOX, sizeof(*s));
    s->box.time_ms = opt_number(L, 1, "time_ms", 50);
    s->box.memory_bytes = (size_t)opt_number(L, 1, "memory_bytes", 16 << 20);
    luaL_argcheck(L, s->box.time_ms > 0 && s->box.time_ms <= 60000, 1,
                  "options.time_ms: more than 0, at most a minute");
    luaL_argcheck(L, s->box.memory_bytes >= 1 << 18, 1, "options.memory_bytes: at least 256 KiB");
    return s;
}

/* mr.sandbox(options) -> Sandbox, or nil, err */
int
sandbox_open(lua_State *L)
{
    static const char *const known[] = {"source",  "file", "name", "memory_bytes",
                                        "time_ms", "env",  NULL};
    luaL_checktype(L, 1, LUA_TTABLE);
    opt_table(L, 1, known);
    luaL_checkstack(L, 3 * PLAIN_STACK, "sandbox");
    bool file = opt_text(L, 1, "file", NULL), source = opt_text(L, 1, "source", NULL);
    luaL_argcheck(L, file != source, 1, "one of options.source and options.file expected");
    opt_text(L, 1, "name", NULL);
    struct sandbox *s = sandbox_new(L);
    sandbox_data(L, lua_gettop(L));
    struct err e;
    if (sandbox_read(L, s, &e))
        return error_return(L, &e);
    lua_replace(L, SANDBOX_SELF);
    lua_settop(L, SANDBOX_SELF);
    return sandbox_ensure(L, s, &e) ? sandbox_fail(L, &e) : 1;
}

struct request {
    lua_State *from;
    int first, count; /* the arguments on from's stack */
    const char *name; /* NULL: the chunk's own value */
    bool found;
};

/* Pushes the function that is meant, or false. */
static bool
box_push_function(lua_State *L, const char *name)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, BOX_CHUNK);
    if (name && lua_istable(L, -1)) {
        lua_pushstring(L, name);
        lua_rawget(L, -2);
    } else if (name)
        return false;
    return lua_isfunction(L, -1);
}

/* In the sandbox's state: calls the function; the answer is left in the registry. */
static int
box_call(lua_State *L)
{
    struct request *r = lua_touserdata(L, 1);
    luaL_checkstack(L, 2 * PLAIN_STACK + r->count, "sandbox");
    r->found = box_push_function(L, r->name);
    if (!r->found)
        return 0;
    for (int i = 0; i < r->count; i++)
        plain_copy(r->from, r->first + i, L);
    lua_call(L, r->count, 1);
    lua_rawseti(L, LUA_REGISTRYINDEX, BOX_ANSWER);
    luaL_checkstack(L, 2 * PLAIN_STACK, "sandbox"); /* for who reads the answer */
    return 0;
}

static int
box_value(lua_State *L)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, BOX_CHUNK);
    lua_rawseti(L, LUA_REGISTRYINDEX, BOX_ANSWER);
    luaL_checkstack(L, 2 * PLAIN_STACK, "sandbox");
    return 0;
}

static int
box_has(lua_State *L)
{
    struct request *r = lua_touserdata(L, 1);
    r->found = box_push_function(L, r->name);
    return 0;
}

/* Pushes a copy of the answer, which is checked first. */
static int
sandbox_answer(lua_State *L, struct sandbox *s)
{
    struct err e;
    lua_State *inner = s->box.L;
    lua_rawgeti(inner, LUA_REGISTRYINDEX, BOX_ANSWER);
    int rc = plain_check(inner, lua_gettop(inner), "result", false, &e);
    if (rc)
        err_wrap(&e, "%s", s->box.name + 1);
    else
        plain_copy(inner, lua_gettop(inner), L);
    lua_settop(inner, 0);
    return rc ? error_return(L, &e) : 1;
}

/* Sandbox:call(name?, ...) -> result, or nil, err */
static int
l_call(lua_State *L)
{
    struct sandbox *s = sandbox_check(L);
    struct request r = {.from = L, .first = 3, .name = luaL_optstring(L, 2, NULL)};
    struct err e;
    r.count = lua_gettop(L) > 2 ? lua_gettop(L) - 2 : 0;
    for (int i = 0; i < r.count; i++)
        if (plain_check(L, r.first + i, "argument", true, &e))
            luaL_argerror(L, r.first + i, lua_pushfstring(L, "%s", e.message));
    int top = lua_gettop(L);
    int rc = sandbox_ensure(L, s, &e);
    if (rc == 0)
        rc = box_run(&s->box, box_call, &r, &e);
    lua_settop(L, top);
    if (rc)
        return sandbox_fail(L, &e);
    if (!r.found)
        return error_returnf(L, ERR_NOTFOUND, "%s: it returns no function%s%s", s->box.name + 1,
                             r.name ? " " : "", r.name ? r.name : "");
    return sandbox_answer(L, s);
}

/* Sandbox:value() -> value, or nil, err */
static int
l_value(lua_State *L)
{
    struct sandbox *s = sandbox_check(L);
    struct err e;
    int rc = sandbox_ensure(L, s, &e);
    if (rc == 0)
        rc = box_run(&s->box, box_value, NULL, &e);
    return rc ? sandbox_fail(L, &e) : sandbox_answer(L, s);
}

/* Sandbox:has(name) -> boolean */
static int
l_has(lua_State *L)
{
    struct sandbox *s = sandbox_check(L);
    struct request r = {.name = luaL_checkstring(L, 2)};
    struct err e;
    int rc = sandbox_ensure(L, s, &e);
    if (rc == 0)
        rc = box_run(&s->box, box_has, &r, &e);
    lua_pushboolean(L, rc == 0 && r.found);
    return 1;
}

void
sandbox_register(lua_State *L)
{
    static const luaL_Reg methods[] = {
        {"call", l_call}, {"value", l_value}, {"has", l_has}, {"close", l_close}, {NULL, NULL}};
    class_register(L, SANDBOX, methods, l_close);
}
