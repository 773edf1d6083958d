#include "bind.h"

#include <string.h>

#define CLASSES "moonrise.classes"

static int
l_object_text(lua_State *L)
{
    lua_pushfstring(L, "%s: %p", lua_tostring(L, lua_upvalueindex(1)), lua_topointer(L, 1));
    return 1;
}

/* "moonrise.Conn" is shown as "Conn". */
static const char *
class_short(const char *name)
{
    const char *dot = strchr(name, '.');
    return dot ? dot + 1 : name;
}

void
class_register(lua_State *L, const char *name, const luaL_Reg *methods, lua_CFunction gc)
{
    luaL_newmetatable(L, name);
    lua_newtable(L);
    luaL_setfuncs(L, methods, 0);
    lua_setfield(L, -2, "__index");
    lua_pushstring(L, class_short(name));
    lua_pushvalue(L, -1);
    lua_setfield(L, -3, "__metatable");
    lua_pushcclosure(L, l_object_text, 1);
    lua_setfield(L, -2, "__tostring");
    if (gc) {
        lua_pushcfunction(L, gc);
        lua_setfield(L, -2, "__gc");
    }
    luaL_findtable(L, LUA_REGISTRYINDEX, CLASSES, 8);
    lua_getfield(L, -2, "__index");
    lua_setfield(L, -2, class_short(name));
    lua_pop(L, 2);
}

void *
class_new(lua_State *L, const char *name, size_t bytes)
{
    void *object = lua_newuserdata(L, bytes);
    memset(object, 0, bytes);
    luaL_getmetatable(L, name);
    lua_setmetatable(L, -2);
    return object;
}

static void
push_method_names(lua_State *L)
{
    lua_newtable(L);
    int count = 0;
    for (lua_pushnil(L); lua_next(L, -3);) {
        lua_pop(L, 1);
        lua_pushvalue(L, -1);
        lua_rawseti(L, -3, ++count);
    }
}

/* mr._classes() -> {class = {method, ...}} */
int
class_list(lua_State *L)
{
    lua_newtable(L);
    luaL_findtable(L, LUA_REGISTRYINDEX, CLASSES, 8);
    for (lua_pushnil(L); lua_next(L, -2);) {
        push_method_names(L);
        lua_remove(L, -2);
        lua_pushvalue(L, -2);
        lua_insert(L, -2);
        lua_settable(L, -5);
    }
    lua_pop(L, 1);
    return 1;
}
