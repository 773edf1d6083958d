#include "bind.h"
#include "objects.h"

#include "moonrise/conn/result.h"
#include "moonrise/pg/lsn.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void
push_field(lua_State *L, enum result_kind kind, const char *text)
{
    lsn_t lsn;
    double number;
    switch (kind) {
    case RESULT_BOOL:
        lua_pushboolean(L, text[0] == 't');
        break;
    case RESULT_INTEGER:
        if (!result_integer(&number, text))
            lua_pushstring(L, text);
        else
            lua_pushnumber(L, number);
        break;
    case RESULT_REAL:
        lua_pushnumber(L, strtod(text, NULL));
        break;
    case RESULT_LSN:
        if (lsn_parse(&lsn, text, NULL) == 0) {
            lua_pushnumber(L, (double)lsn);
            break;
        }
        /* fall through */
    default:
        lua_pushstring(L, text);
    }
}

int
rows_push(lua_State *L, const struct result *r)
{
    int rows = result_rows(r), columns = result_columns(r);
    lua_createtable(L, rows, 1);
    for (int i = 0; i < rows; i++) {
        lua_createtable(L, 0, columns);
        for (int k = 0; k < columns; k++) {
            const char *text = result_get(r, i, k);
            if (!text)
                continue;
            push_field(L, result_kind(r, k), text);
            lua_setfield(L, -2, result_name(r, k));
        }
        lua_rawseti(L, -2, i + 1);
    }
    set_text(L, "command", result_command(r));
    return 1;
}

static int
params_length(lua_State *L, int index)
{
    lua_getfield(L, index, "n");
    int count = lua_isnumber(L, -1) ? (int)lua_tointeger(L, -1) : (int)lua_objlen(L, index);
    lua_pop(L, 1);
    luaL_argcheck(L, count >= 0 && count <= 65535, index, "params: too many");
    return count;
}

/* Where Conn:query has its parameters. */
enum { PARAMS_ARG = 3 };

/* Turns the parameter on top of the stack into text (left on the stack), or NULL for SQL NULL. */
static const char *
param_text(lua_State *L, int index)
{
    char text[40];
    double number;
    switch (lua_type(L, -1)) {
    case LUA_TNIL:
        return NULL;
    case LUA_TBOOLEAN:
        return lua_toboolean(L, -1) ? "true" : "false";
    case LUA_TNUMBER:
        number = lua_tonumber(L, -1);
        snprintf(text, sizeof(text),
                 number == floor(number) && fabs(number) < 1e18 ? "%.0f" : "%.17g", number);
        lua_pushstring(L, text);
        lua_replace(L, -2);
        return lua_tostring(L, -1);
    case LUA_TSTRING:
        if (strlen(lua_tostring(L, -1)) == lua_objlen(L, -1))
            return lua_tostring(L, -1);
        luaL_argerror(L, PARAMS_ARG, lua_pushfstring(L, "params[%d]: text with a NUL byte", index));
        return NULL;
    case LUA_TLIGHTUSERDATA:
        if (!lua_touserdata(L, -1))
            return NULL;
        /* fall through */
    default:
        luaL_argerror(L, PARAMS_ARG,
                      lua_pushfstring(L,
                                      "params[%d]: text, number, boolean or mr.null expected,"
                                      " got %s",
                                      index, luaL_typename(L, -1)));
        return NULL;
    }
}

/* The array is a userdata; the texts made from numbers are anchored in its environment table. */
const char *const *
rows_params(lua_State *L, int index, int *count)
{
    luaL_argcheck(L, lua_istable(L, index), PARAMS_ARG, "params: table expected");
    *count = params_length(L, index);
    const char **list = lua_newuserdata(L, ((size_t)*count + 1) * sizeof(*list));
    lua_newtable(L);
    for (int i = 1; i <= *count; i++) {
        lua_rawgeti(L, index, i);
        list[i - 1] = param_text(L, i);
        lua_rawseti(L, -2, i);
    }
    lua_setfenv(L, -2);
    list[*count] = NULL;
    return list;
}
