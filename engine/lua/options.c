#include "bind.h"

#include <math.h>
#include <string.h>

static int
opt_fail(lua_State *L, int arg, const char *key, const char *expected)
{
    lua_getfield(L, arg, key);
    return luaL_argerror(
        L, arg,
        lua_pushfstring(L, "options.%s: %s expected, got %s", key, expected, luaL_typename(L, -1)));
}

void
opt_table(lua_State *L, int arg, const char *const *known)
{
    if (lua_isnoneornil(L, arg)) {
        while (lua_gettop(L) < arg)
            lua_pushnil(L);
        lua_newtable(L);
        lua_replace(L, arg);
        return;
    }
    luaL_checktype(L, arg, LUA_TTABLE);
    for (lua_pushnil(L); known && lua_next(L, arg); lua_pop(L, 1)) {
        if (lua_type(L, -2) != LUA_TSTRING)
            luaL_argerror(L, arg, "option names are text");
        const char *key = lua_tostring(L, -2);
        size_t i = 0;
        while (known[i] && strcmp(known[i], key) != 0)
            i++;
        if (!known[i])
            luaL_argerror(L, arg, lua_pushfstring(L, "there is no option '%s'", key));
    }
    if (!known)
        lua_pop(L, 1);
}

const char *
opt_text(lua_State *L, int arg, const char *key, const char *otherwise)
{
    lua_getfield(L, arg, key);
    const char *text = otherwise;
    if (lua_type(L, -1) == LUA_TSTRING)
        text = lua_tostring(L, -1);
    else if (!lua_isnil(L, -1))
        opt_fail(L, arg, key, "text");
    lua_pop(L, 1);
    return text;
}

double
opt_number(lua_State *L, int arg, const char *key, double otherwise)
{
    lua_getfield(L, arg, key);
    double number = otherwise;
    if (lua_type(L, -1) == LUA_TNUMBER)
        number = lua_tonumber(L, -1);
    else if (!lua_isnil(L, -1))
        opt_fail(L, arg, key, "number");
    if (!(number >= 0 && number <= 9007199254740992.0))
        luaL_argerror(L, arg, lua_pushfstring(L, "options.%s: out of range", key));
    lua_pop(L, 1);
    return number;
}

bool
opt_function(lua_State *L, int arg, const char *key)
{
    lua_getfield(L, arg, key);
    if (lua_isfunction(L, -1))
        return true;
    if (!lua_isnil(L, -1))
        opt_fail(L, arg, key, "function");
    lua_pop(L, 1);
    return false;
}

const char **
text_list(lua_State *L, int arg, int index, const char *what)
{
    size_t count = lua_objlen(L, index);
    const char **list = lua_newuserdata(L, (count + 1) * sizeof(*list));
    for (size_t i = 0; i < count; i++) {
        lua_rawgeti(L, index, (int)i + 1);
        if (lua_type(L, -1) != LUA_TSTRING || strlen(lua_tostring(L, -1)) != lua_objlen(L, -1))
            luaL_argerror(L, arg,
                          lua_pushfstring(L, "%s[%d]: text expected, got %s", what, (int)i + 1,
                                          luaL_typename(L, -1)));
        list[i] = lua_tostring(L, -1);
        lua_pop(L, 1);
    }
    list[count] = NULL;
    return list;
}

int64_t
arg_ms(lua_State *L, int arg, int64_t otherwise)
{
    if (lua_isnoneornil(L, arg))
        return otherwise;
    double ms = luaL_checknumber(L, arg);
    if (!(ms >= 0 && ms <= 366.0 * 86400e3))
        luaL_argerror(L, arg, "milliseconds out of range");
    return (int64_t)ceil(ms);
}
