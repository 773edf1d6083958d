#include "bind.h"
#include "objects.h"

#include "moonrise/base/err.h"
#include "moonrise/base/hash.h"
#include "moonrise/loop/loop.h"
#include "moonrise/pg/lsn.h"

#include <time.h>

static double
read_ms(clockid_t id)
{
    struct timespec ts;
    clock_gettime(id, &ts);
    return (double)ts.tv_sec * 1e3 + (double)ts.tv_nsec / 1e6;
}

/* mr.clock() -> ms of CLOCK_MONOTONIC, with its fractions */
static int
l_clock(lua_State *L)
{
    lua_pushnumber(L, read_ms(CLOCK_MONOTONIC));
    return 1;
}

/* mr.wall() -> ms since 1970 */
static int
l_wall(lua_State *L)
{
    lua_pushnumber(L, (double)wall_ms());
    return 1;
}

void
clock_functions(lua_State *L)
{
    static const luaL_Reg functions[] = {{"clock", l_clock}, {"wall", l_wall}, {NULL, NULL}};
    luaL_setfuncs(L, functions, 0);
}

/* mr.lsn(text) -> number, or nil, err */
static int
l_lsn(lua_State *L)
{
    lsn_t lsn;
    struct err e;
    if (lsn_parse(&lsn, luaL_checkstring(L, 1), &e))
        return error_return(L, &e);
    lua_pushnumber(L, (double)lsn);
    return 1;
}

/* mr.lsn_text(lsn) -> text */
static int
l_lsn_text(lua_State *L)
{
    double lsn = luaL_checknumber(L, 1);
    luaL_argcheck(L, lsn >= 0 && lsn < 18446744073709551616.0, 1, "no LSN");
    char text[LSN_TEXT_BYTES];
    lua_pushstring(L, lsn_format(text, (lsn_t)lsn));
    return 1;
}

/* mr.hash(text) -> 32 hexadecimal characters */
static int
l_hash(lua_State *L)
{
    size_t len;
    const char *bytes = luaL_checklstring(L, 1, &len);
    char text[HASH_TEXT_BYTES];
    lua_pushstring(L, hash_text(text, hash_block(0, bytes, len)));
    return 1;
}

void
lsn_functions(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"lsn", l_lsn}, {"lsn_text", l_lsn_text}, {"hash", l_hash}, {NULL, NULL}};
    luaL_setfuncs(L, functions, 0);
}
