#include "box.h"

#include <lauxlib.h>
#include <lualib.h>
#include <string.h>

enum {
    REPEAT_BYTES_MAX = 1 << 20,
    SORT_ITEMS_MAX = 10000,
    PATTERN_STEPS_MAX = 4000000, /* some 20 ms */
    PLAIN_STEPS_MAX = 1 << 26,   /* of a plain search, which is faster */
};

/* What a chunk may name. Left out: everything that loads code, reads the world, changes environments or
 * metatables (so no value has a metamethod but text), is random, or walks whole tables inside C. */
static const char *const base_names[] = {"assert", "error", "ipairs", "next", "pairs",
                                         "select", "type",  "unpack", NULL};
static const char *const string_names[] = {"byte", "char", "len", "sub", NULL};
static const char *const math_names[] = {
    "abs",   "acos", "asin",  "atan", "atan2", "ceil", "cos",   "cosh", "deg", "exp",
    "floor", "fmod", "frexp", "huge", "ldexp", "log",  "log10", "max",  "min", "modf",
    "pi",    "pow",  "rad",   "sin",  "sinh",  "sqrt", "tan",   "tanh", NULL};

/* Calls the original (upvalue 1) and gives its errors, which know no line since the caller is C, the
 * line of the chunk. Upvalue 2 is the name. */
static int
call_original(lua_State *L)
{
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    int rc = lua_pcall(L, lua_gettop(L) - 1, LUA_MULTRET, 0);
    if (rc == 0)
        return lua_gettop(L);
    const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : NULL;
    const char *chunk = box_of(L)->name + 1;
    if (rc == LUA_ERRMEM || !text || strncmp(text, chunk, strlen(chunk)) == 0)
        return lua_error(L);
    const char *name = lua_tostring(L, lua_upvalueindex(2));
    if (strncmp(text, name, strlen(name)) ==
        0) /* it came through another call of the same function */
        return lua_error(L);
    return luaL_error(L, "%s: %s", name, text);
}

/* Anything linear in the size of its arguments. */
static int
l_guarded(lua_State *L)
{
    box_guard(L);
    return call_original(L);
}

/* pcall through C. LuaJIT's own needs no C stack and hardly any of Lua's: where Lua's stack is almost
 * used up the hook cannot run, and a loop around a pcall would never end. This one looks at the clock
 * by itself, before the call and after an error. */
static int
l_pcall(lua_State *L)
{
    box_guard(L);
    luaL_checkany(L, 1);
    int rc = lua_pcall(L, lua_gettop(L) - 1, LUA_MULTRET, 0);
    if (rc)
        box_guard(L);
    lua_pushboolean(L, rc == 0);
    lua_insert(L, 1);
    return lua_gettop(L);
}

/* tostring: no addresses, which would be different in each run. */
static int
l_tostring(lua_State *L)
{
    box_guard(L);
    luaL_checkany(L, 1);
    if (lua_type(L, 1) > LUA_TSTRING) {
        lua_pushstring(L, luaL_typename(L, 1));
        return 1;
    }
    return call_original(L);
}

static int
l_rep(lua_State *L)
{
    size_t len;
    box_guard(L);
    luaL_checklstring(L, 1, &len);
    double times = luaL_checknumber(L, 2);
    if (times > 0 && times * (double)len > REPEAT_BYTES_MAX)
        return luaL_error(L, "rep: the text would be longer than %d bytes", REPEAT_BYTES_MAX);
    return call_original(L);
}

/* An upper bound of the steps a pattern takes on a text of `len` bytes: each part that can match
 * several lengths multiplies by the length, and so does the search for the place. */
static double
pattern_steps(const char *pattern, size_t pattern_len, size_t len, bool anchored)
{
    double steps = anchored ? 1 : (double)len + 1;
    size_t in_sets = 1;
    bool in_set = false;
    for (size_t i = 0; i < pattern_len; i++) {
        char c = pattern[i];
        in_sets += in_set;
        if (c == '%' && i + 1 < pattern_len) {
            c = pattern[++i];
            if (!in_set && (c == 'b' || (c >= '1' && c <= '9')))
                steps *= (double)len + 1;
            if (!in_set && c == 'b')
                i += 2; /* the delimiters, which may look like anything else */
        } else if (c == '[' && !in_set)
            in_set = true;
        else if (c == ']' && in_set)
            in_set = false;
        else if (!in_set && (c == '*' || c == '+' || c == '-'))
            steps *= (double)len + 1;
        else if (!in_set && c == '?')
            steps *= 2;
    }
    return steps * (double)in_sets;
}

static int
l_pattern(lua_State *L)
{
    size_t len, pattern_len;
    box_guard(L);
    luaL_checklstring(L, 1, &len);
    const char *pattern = luaL_checklstring(L, 2, &pattern_len);
    const char *name = lua_tostring(L, lua_upvalueindex(2));
    bool anchored = pattern[0] == '^' && strcmp(name, "gmatch") != 0; /* there it is a character */
    if (pattern_steps(pattern, pattern_len, len, anchored) > PATTERN_STEPS_MAX)
        return luaL_error(L, "%s: too much work, a shorter text or a simpler pattern is needed",
                          name);
    return call_original(L);
}

/* The iterator searches each time it is called, also after its end: it is guarded like the rest. */
static int
l_gmatch(lua_State *L)
{
    l_pattern(L);
    lua_pushvalue(L, lua_upvalueindex(2));
    lua_pushcclosure(L, l_guarded, 2);
    return 1;
}

/* Whether a format has a %p, which writes the address of anything, text too. */
static bool
format_shows_address(const char *format, size_t len)
{
    const char *end = format + len;
    while ((format = memchr(format, '%', (size_t)(end - format)))) {
        format++;
        format += strspn(format, "-+ #0123456789.");
        if (*format == 'p')
            return true;
        format += format < end;
    }
    return false;
}

/* string.format: no addresses, as in tostring. */
static int
l_format(lua_State *L)
{
    size_t len;
    const char *format = luaL_checklstring(L, 1, &len);
    if (format_shows_address(format, len))
        return luaL_error(L, "format: '%%p' would show an address");
    for (int i = 2; i <= lua_gettop(L); i++) {
        if (lua_type(L, i) <= LUA_TSTRING)
            continue;
        lua_pushstring(L, luaL_typename(L, i));
        lua_replace(L, i);
    }
    return l_guarded(L);
}

static int
l_find(lua_State *L)
{
    size_t len, pattern_len;
    if (!lua_toboolean(L, 4))
        return l_pattern(L);
    box_guard(L);
    luaL_checklstring(L, 1, &len);
    luaL_checklstring(L, 2, &pattern_len);
    if ((double)len * (double)pattern_len > PLAIN_STEPS_MAX)
        return luaL_error(L, "find: too much work, shorter texts are needed");
    return call_original(L);
}

/* Whether the value at index a belongs before the one at b. */
static bool
sort_less(lua_State *L, int a, int b)
{
    box_guard(L);
    if (lua_isnil(L, 2))
        return lua_lessthan(L, a, b);
    lua_pushvalue(L, 2);
    lua_pushvalue(L, a);
    lua_pushvalue(L, b);
    lua_call(L, 2, 1);
    bool less = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return less;
}

/* Merges two sorted runs, [from, middle) and [middle, to), of the table at 3 into the one at 4. */
static void
sort_merge(lua_State *L, int from, int middle, int to)
{
    int left = from, right = middle;
    for (int i = from; i < to; i++) {
        bool take_right = left >= middle;
        if (left < middle && right < to) {
            lua_rawgeti(L, 3, right);
            lua_rawgeti(L, 3, left);
            take_right = sort_less(L, lua_gettop(L) - 1, lua_gettop(L));
            lua_pop(L, 2);
        }
        lua_rawgeti(L, 3, take_right ? right++ : left++);
        lua_rawseti(L, 4, i);
    }
}

/* table.sort by merging: at most n log n comparisons whatever the comparison says, and stable. */
static int
l_sort(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    if (!lua_isnoneornil(L, 2))
        luaL_checktype(L, 2, LUA_TFUNCTION);
    lua_settop(L, 2);
    size_t count = lua_objlen(L, 1);
    if (count > SORT_ITEMS_MAX)
        return luaL_error(L, "sort: more than %d items", SORT_ITEMS_MAX);
    int n = (int)count;
    lua_createtable(L, n, 0);
    lua_createtable(L, n, 0);
    for (int i = 1; i <= n; i++) {
        lua_rawgeti(L, 1, i);
        lua_rawseti(L, 3, i);
    }
    for (int width = 1; width < n; width *= 2) {
        for (int from = 1; from <= n; from += 2 * width) {
            int middle = from + width, to = from + 2 * width;
            sort_merge(L, from, middle > n + 1 ? n + 1 : middle, to > n + 1 ? n + 1 : to);
        }
        lua_pushvalue(L, 3);
        lua_pushvalue(L, 4);
        lua_replace(L, 3);
        lua_replace(L, 4);
    }
    for (int i = 1; i <= n; i++) {
        lua_rawgeti(L, 3, i);
        lua_rawseti(L, 1, i);
    }
    return 0;
}

static int
l_undefined(lua_State *L)
{
    return luaL_error(L, "there is no name '%s'",
                      lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "?");
}

static int
l_read_only(lua_State *L)
{
    return luaL_error(L, "'%s' cannot be set here; use a local",
                      lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "?");
}

/* Replaces the table on top of the stack by an empty one that reads from it and cannot be written. */
static void
make_read_only(lua_State *L)
{
    lua_newtable(L);
    lua_createtable(L, 0, 2);
    lua_pushvalue(L, -3);
    lua_setfield(L, -2, "__index");
    lua_pushcfunction(L, l_read_only);
    lua_setfield(L, -2, "__newindex");
    lua_setmetatable(L, -2);
    lua_replace(L, -2);
}

/* names[...] of the table at `from` into the table on top of the stack. */
static void
copy_names(lua_State *L, int from, const char *const *names)
{
    for (; *names; names++) {
        lua_getfield(L, from, *names);
        lua_setfield(L, -2, *names);
    }
}

/* Guarded versions of functions of the table at `from` into the table on top of the stack. */
static void
guard_names(lua_State *L, int from, const luaL_Reg *guards)
{
    for (; guards->name; guards++) {
        lua_getfield(L, from, guards->name);
        lua_pushstring(L, guards->name);
        lua_pushcclosure(L, guards->func, 2);
        lua_setfield(L, -2, guards->name);
    }
}

/* Pushes the real library `name`, opened now; the jit library and all others stay closed. */
static int
open_library(lua_State *L, const char *name, lua_CFunction open)
{
    lua_pushcfunction(L, open);
    lua_pushstring(L, name);
    lua_call(L, 1, 0);
    lua_getglobal(L, *name ? name : "_G");
    return lua_gettop(L);
}

static void
push_string_library(lua_State *L)
{
    static const luaL_Reg guards[] = {
        {"rep", l_rep},         {"find", l_find},     {"match", l_pattern}, {"gmatch", l_gmatch},
        {"gsub", l_pattern},    {"format", l_format}, {"upper", l_guarded}, {"lower", l_guarded},
        {"reverse", l_guarded}, {NULL, NULL}};
    int from = open_library(L, LUA_STRLIBNAME, luaopen_string);
    lua_newtable(L);
    copy_names(L, from, string_names);
    guard_names(L, from, guards);
    make_read_only(L);
    lua_remove(L, from);
    /* ("x"):rep() takes the same way. */
    lua_pushliteral(L, "");
    lua_getmetatable(L, -1);
    lua_pushvalue(L, -3);
    lua_setfield(L, -2, "__index");
    lua_pushboolean(L, false);
    lua_setfield(L, -2, "__metatable");
    lua_pop(L, 2);
}

static void
push_table_library(lua_State *L)
{
    static const luaL_Reg guards[] = {
        {"concat", l_guarded}, {"insert", l_guarded}, {"remove", l_guarded}, {NULL, NULL}};
    int from = open_library(L, LUA_TABLIBNAME, luaopen_table);
    lua_newtable(L);
    guard_names(L, from, guards);
    lua_pushcfunction(L, l_sort);
    lua_setfield(L, -2, "sort");
    make_read_only(L);
    lua_remove(L, from);
}

static void
push_math_library(lua_State *L)
{
    int from = open_library(L, LUA_MATHLIBNAME, luaopen_math);
    lua_newtable(L);
    copy_names(L, from, math_names);
    make_read_only(L);
    lua_remove(L, from);
}

void
box_push_env(lua_State *L)
{
    static const luaL_Reg guards[] = {
        {"tonumber", l_guarded}, {"tostring", l_tostring}, {"pcall", l_pcall}, {NULL, NULL}};
    int from = open_library(L, "", luaopen_base);
    lua_pushvalue(L, -2); /* the data: a name of the language wins over one of it */
    copy_names(L, from, base_names);
    guard_names(L, from, guards);
    push_string_library(L);
    lua_setfield(L, -2, "string");
    push_table_library(L);
    lua_setfield(L, -2, "table");
    push_math_library(L);
    lua_setfield(L, -2, "math");
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, l_undefined);
    lua_setfield(L, -2, "__index");
    lua_setmetatable(L, -2);
    make_read_only(L);
    lua_replace(L, from - 1);
    lua_settop(L, from - 1);
}
