/*
 * The module `moonrise`: what `require("moonrise")` gives. Private to engine/lua, but for busted's
 * LuaJIT, which loads build/moonrise.so and finds the one symbol that is visible.
 */
#ifndef MOONRISE_ENGINE_LUA_MODULE_H
#define MOONRISE_ENGINE_LUA_MODULE_H

#include <lua.h>

int luaopen_moonrise(lua_State *L) __attribute__((visibility("default")));

#endif
