/*
 * Plain data: nil, booleans, finite numbers, text, and tables of these with text or number keys. It goes
 * from one Lua state to another by copying. Private to engine/lua.
 */
#ifndef MOONRISE_ENGINE_LUA_PLAIN_H
#define MOONRISE_ENGINE_LUA_PLAIN_H

#include <lua.h>
#include <stdbool.h>

struct err;

enum {
    PLAIN_DEPTH_MAX = 32,
    PLAIN_ITEMS_MAX = 1 << 19, /* counts a shared table as often as it is reached */
    PLAIN_STACK = 4 * PLAIN_DEPTH_MAX,
};

/* Whether the value at `index` is plain: ERR_FORMAT names the place ("result.segments[2].port").
 * `ours`: it comes from our own scripts, where mr.null counts as nil and a metatable is ignored.
 * Allocates nothing and raises nothing; PLAIN_STACK slots must be free on L's stack. */
int plain_check(lua_State *L, int index, const char *name, bool ours, struct err *e);

/* Pushes a copy of a checked value onto `to` (which may be `from`). May raise on `to` only; PLAIN_STACK
 * slots must be free on both. */
void plain_copy(lua_State *from, int index, lua_State *to);

#endif
