#include "plain.h"

#include "moonrise/base/err.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

struct check {
    lua_State *L;
    bool ours;
    int items;
    int depth;
    char path[256];
    struct err *e;
};

static int check_value(struct check *c, int index);

static int
check_fail(struct check *c, const char *what)
{
    return err_set(c->e, ERR_FORMAT, "%s: %s, plain data expected", c->path, what);
}

/* The key at `index` is text or a finite number; puts its place behind the path. */
static int
check_key(struct check *c, int index)
{
    size_t used = strlen(c->path), left = sizeof(c->path) - used;
    if (lua_type(c->L, index) == LUA_TSTRING)
        snprintf(c->path + used, left, ".%.40s", lua_tostring(c->L, index));
    else if (lua_type(c->L, index) == LUA_TNUMBER && isfinite(lua_tonumber(c->L, index)))
        snprintf(c->path + used, left, "[%.14g]", lua_tonumber(c->L, index));
    else
        return check_fail(c, "a key that is neither text nor a number");
    return 0;
}

static int
check_table(struct check *c, int index)
{
    lua_State *L = c->L;
    if (++c->depth > PLAIN_DEPTH_MAX)
        return check_fail(c, "tables nested too deep or in a cycle");
    if (!c->ours && lua_getmetatable(L, index)) {
        lua_pop(L, 1);
        return check_fail(c, "a table with a metatable");
    }
    size_t used = strlen(c->path);
    for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) {
        int top = lua_gettop(L);
        if (check_key(c, top - 1) || check_value(c, top))
            return ERR_FORMAT;
        c->path[used] = '\0';
    }
    c->depth--;
    return 0;
}

static int
check_value(struct check *c, int index)
{
    lua_State *L = c->L;
    if (++c->items > PLAIN_ITEMS_MAX)
        return check_fail(c, "too many values");
    switch (lua_type(L, index)) {
    case LUA_TNIL:
    case LUA_TBOOLEAN:
    case LUA_TSTRING:
        return 0;
    case LUA_TNUMBER:
        return isfinite(lua_tonumber(L, index)) ? 0 : check_fail(c, "a number that is not finite");
    case LUA_TTABLE:
        return check_table(c, index);
    case LUA_TLIGHTUSERDATA:
        if (c->ours && !lua_touserdata(L, index))
            return 0;
        return check_fail(c, "a userdata");
    default:
        return check_fail(c, lua_typename(L, lua_type(L, index)));
    }
}

int
plain_check(lua_State *L, int index, const char *name, bool ours, struct err *e)
{
    struct check c = {.L = L, .ours = ours, .e = e};
    int top = lua_gettop(L);
    snprintf(c.path, sizeof(c.path), "%s", name);
    int rc = check_value(&c, index < 0 ? top + index + 1 : index);
    lua_settop(L, top);
    return rc;
}

static void
copy_table(lua_State *from, int index, lua_State *to)
{
    lua_newtable(to);
    int copy = lua_gettop(to);
    for (lua_pushnil(from); lua_next(from, index); lua_pop(from, 1)) {
        int top = lua_gettop(from);
        plain_copy(from, top - 1, to);
        plain_copy(from, top, to);
        lua_rawset(to, copy);
    }
}

void
plain_copy(lua_State *from, int index, lua_State *to)
{
    size_t len;
    const char *text;
    switch (lua_type(from, index)) {
    case LUA_TBOOLEAN:
        lua_pushboolean(to, lua_toboolean(from, index));
        break;
    case LUA_TNUMBER:
        lua_pushnumber(to, lua_tonumber(from, index));
        break;
    case LUA_TSTRING:
        text = lua_tolstring(from, index, &len);
        lua_pushlstring(to, text, len);
        break;
    case LUA_TTABLE:
        copy_table(from, index, to);
        break;
    default:
        lua_pushnil(to);
    }
}
