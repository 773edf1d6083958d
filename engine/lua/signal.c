#include "bind.h"
#include "objects.h"
#include "runtime.h"

#include <string.h>

/* mr.on_signal(name, fn?) : fn runs in a task of its own for each delivery; nil restores the default */
int
signal_handle(lua_State *L)
{
    int i = runtime_signal(luaL_checkstring(L, 1));
    luaL_argcheck(L, i >= 0, 1, "\"INT\", \"TERM\" or \"HUP\" expected");
    lua_settop(L, 2);
    if (!lua_isnil(L, 2))
        luaL_checktype(L, 2, LUA_TFUNCTION);
    struct runtime *rt = runtime_running(L, "on_signal");
    luaL_unref(L, LUA_REGISTRYINDEX, rt->handlers[i]);
    rt->handlers[i] = lua_isnil(L, 2) ? LUA_NOREF : luaL_ref(L, LUA_REGISTRYINDEX);
    runtime_keep_alive(rt);
    return 0;
}
