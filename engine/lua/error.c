#include "bind.h"

#include "moonrise/base/err.h"

#include <stdarg.h>
#include <string.h>

#define ERROR_CLASS "moonrise.Error"

/* tostring(err): "message" or "message (hint)". Raw fields only: it also runs where a second error
 * would hide the first. */
static int
l_error_text(lua_State *L)
{
    lua_settop(L, 1);
    lua_pushliteral(L, "message");
    lua_rawget(L, 1);
    lua_pushliteral(L, "hint");
    lua_rawget(L, 1);
    const char *message = lua_tostring(L, 2);
    const char *hint = lua_tostring(L, 3);
    if (!message)
        message = "unknown error";
    if (hint && *hint)
        lua_pushfstring(L, "%s (%s)", message, hint);
    else
        lua_pushstring(L, message);
    return 1;
}

void
error_register(lua_State *L)
{
    luaL_newmetatable(L, ERROR_CLASS);
    lua_pushcfunction(L, l_error_text);
    lua_setfield(L, -2, "__tostring");
    set_text(L, "__metatable", "Error");
    lua_pop(L, 1);
}

static void
push_fields(lua_State *L, const char *code, const char *message)
{
    lua_createtable(L, 0, 4);
    set_text(L, "code", code);
    set_text(L, "message", message);
    luaL_getmetatable(L, ERROR_CLASS);
    lua_setmetatable(L, -2);
}

void
error_push(lua_State *L, const struct err *e)
{
    push_fields(L, err_name(e->code), e->message);
    if (e->hint[0])
        set_text(L, "hint", e->hint);
    if (e->sqlstate[0])
        set_text(L, "sqlstate", e->sqlstate);
}

static void
error_vpushf(lua_State *L, int code, const char *fmt, va_list ap)
{
    const char *message = lua_pushvfstring(L, fmt, ap);
    push_fields(L, err_name(code), message);
    lua_remove(L, -2);
}

void
error_pushf(lua_State *L, int code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    error_vpushf(L, code, fmt, ap);
    va_end(ap);
}

int
error_return(lua_State *L, const struct err *e)
{
    lua_pushnil(L);
    error_push(L, e);
    return 2;
}

int
error_returnf(lua_State *L, int code, const char *fmt, ...)
{
    lua_pushnil(L);
    va_list ap;
    va_start(ap, fmt);
    error_vpushf(L, code, fmt, ap);
    va_end(ap);
    return 2;
}

bool
error_is(lua_State *L, int index)
{
    if (!lua_istable(L, index) || !lua_getmetatable(L, index))
        return false;
    luaL_getmetatable(L, ERROR_CLASS);
    bool same = lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
    return same;
}

void
error_text(lua_State *L, int index)
{
    if (lua_isstring(L, index))
        lua_pushstring(L, lua_tostring(L, index));
    else if (error_is(L, index)) {
        lua_pushcfunction(L, l_error_text);
        lua_pushvalue(L, index < 0 ? index - 1 : index);
        lua_call(L, 1, 1);
    } else
        lua_pushfstring(L, "a %s was raised", luaL_typename(L, index));
}

void
error_wrap(lua_State *L)
{
    if (error_is(L, -1))
        return;
    error_text(L, -1);
    push_fields(L, "raised", lua_tostring(L, -1));
    lua_replace(L, -3);
    lua_pop(L, 1);
}

static void
copy_field(lua_State *L, int from, const char *key, bool text)
{
    lua_getfield(L, from, key);
    if (lua_isnil(L, -1))
        lua_pop(L, 1);
    else if (text ? lua_type(L, -1) == LUA_TSTRING : error_is(L, -1))
        lua_setfield(L, -2, key);
    else
        luaL_argerror(L, 3,
                      lua_pushfstring(L, "more.%s: %s expected", key, text ? "text" : "Error"));
}

/* mr.error(code, message, more?) -> Error */
int
error_make(lua_State *L)
{
    static const char *const known[] = {"hint", "instance", "cause", "sqlstate", NULL};
    luaL_checktype(L, 1, LUA_TSTRING);
    luaL_checkstring(L, 2);
    lua_settop(L, 3);
    opt_table(L, 3, known);
    push_fields(L, lua_tostring(L, 1), lua_tostring(L, 2));
    copy_field(L, 3, "hint", true);
    copy_field(L, 3, "instance", true);
    copy_field(L, 3, "sqlstate", true);
    copy_field(L, 3, "cause", false);
    return 1;
}

/* mr.check(value, err, ...) -> its arguments, or raises err */
int
error_check(lua_State *L)
{
    luaL_checkany(L, 1);
    if (lua_toboolean(L, 1))
        return lua_gettop(L);
    if (lua_isnoneornil(L, 2))
        return luaL_error(L, "check failed");
    lua_settop(L, 2);
    return lua_error(L);
}
