#include "json.h"

#include "bind.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"
#include "moonrise/wire/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define JSON_ARRAY  "moonrise.json_array"
#define JSON_HOLDER "moonrise.json"

struct writer {
    lua_State *L;
    struct str *out;
    bool strict;
};

static void write_value(struct writer *w, int index, int depth);

/* The length of the UTF-8 sequence that begins at s, 0 when it is none (RFC 3629). */
static size_t
utf8_length(const unsigned char *s, size_t left)
{
    size_t n = s[0] < 0x80 ? 1 : s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    if (n == 0 || s[0] > 0xf4 || n > left)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
        (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
        return 0;
    return n;
}

static void
write_text(struct writer *w, const char *text, size_t len)
{
    str_puts(w->out, "\"");
    for (size_t i = 0, n; i < len; i += n) {
        unsigned char c = (unsigned char)text[i];
        n = utf8_length((const unsigned char *)text + i, len - i);
        if (n == 0 && w->strict)
            luaL_error(w->L, "text that is no UTF-8 cannot be JSON");
        if (n == 0) {
            str_puts(w->out, "\xef\xbf\xbd");
            n = 1;
        } else if (c == '"' || c == '\\') {
            str_puts(w->out, "\\");
            str_append(w->out, text + i, 1);
        } else if (c < 0x20 || c == 0x7f) {
            char code[8];
            snprintf(code, sizeof(code), "\\u%04x", c);
            str_puts(w->out, code);
        } else
            str_append(w->out, text + i, n);
    }
    str_puts(w->out, "\"");
}

static void
write_number(struct writer *w, double number)
{
    char text[40];
    if (!isfinite(number))
        luaL_error(w->L, "a number that is not finite cannot be JSON");
    if (number == floor(number) && fabs(number) < 1e15)
        snprintf(text, sizeof(text), "%.0f", number);
    else {
        snprintf(text, sizeof(text), "%.15g", number);
        if (strtod(text, NULL) != number)
            snprintf(text, sizeof(text), "%.17g", number);
    }
    str_puts(w->out, text);
}

static int
compare_keys(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static bool
is_array(lua_State *L, int index)
{
    if (lua_objlen(L, index) > 0)
        return true;
    if (!lua_getmetatable(L, index))
        return false;
    luaL_getmetatable(L, JSON_ARRAY);
    bool same = lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
    return same;
}

/* How many keys the table has; raises when one is not of its kind. */
static size_t
count_keys(struct writer *w, int index, bool array)
{
    lua_State *L = w->L;
    size_t count = 0, length = lua_objlen(L, index);
    for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1), count++) {
        if (lua_type(L, -2) != (array ? LUA_TNUMBER : LUA_TSTRING))
            luaL_error(L, "a table with keys of type %s cannot be a JSON %s", luaL_typename(L, -2),
                       array ? "array" : "object");
        double key = array ? lua_tonumber(L, -2) : 1;
        if (key != floor(key) || key < 1 || (array && key > (double)length))
            luaL_error(L, "a list with holes cannot be JSON");
    }
    if (array && count != length)
        luaL_error(L, "a list with holes cannot be JSON");
    return count;
}

static void
write_array(struct writer *w, int index, int depth)
{
    size_t count = count_keys(w, index, true);
    str_puts(w->out, "[");
    for (size_t i = 1; i <= count; i++) {
        if (i > 1)
            str_puts(w->out, ",");
        lua_rawgeti(w->L, index, (int)i);
        write_value(w, lua_gettop(w->L), depth + 1);
        lua_pop(w->L, 1);
    }
    str_puts(w->out, "]");
}

/* Keys are sorted, so that the same value is always the same text. */
static void
write_object(struct writer *w, int index, int depth)
{
    lua_State *L = w->L;
    size_t count = count_keys(w, index, false), n = 0;
    const char **keys = lua_newuserdata(L, (count + 1) * sizeof(*keys));
    for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) {
        keys[n] = lua_tostring(L, -2);
        if (strlen(keys[n++]) != lua_objlen(L, -2))
            luaL_error(L, "a key with a NUL byte cannot be JSON");
    }
    qsort(keys, count, sizeof(*keys), compare_keys);
    str_puts(w->out, "{");
    for (n = 0; n < count; n++) {
        if (n > 0)
            str_puts(w->out, ",");
        write_text(w, keys[n], strlen(keys[n]));
        str_puts(w->out, ":");
        lua_pushstring(L, keys[n]);
        lua_rawget(L, index);
        write_value(w, lua_gettop(L), depth + 1);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    str_puts(w->out, "}");
}

static void
write_table(struct writer *w, int index, int depth)
{
    if (depth > JSON_DEPTH_MAX)
        luaL_error(w->L, "a table that is nested deeper than %d (a cycle?) cannot be JSON",
                   JSON_DEPTH_MAX);
    luaL_checkstack(w->L, 10, "JSON");
    if (is_array(w->L, index))
        write_array(w, index, depth);
    else
        write_object(w, index, depth);
}

static void
write_value(struct writer *w, int index, int depth)
{
    lua_State *L = w->L;
    size_t len;
    const char *text;
    switch (lua_type(L, index)) {
    case LUA_TNIL:
        str_puts(w->out, "null");
        break;
    case LUA_TBOOLEAN:
        str_puts(w->out, lua_toboolean(L, index) ? "true" : "false");
        break;
    case LUA_TNUMBER:
        write_number(w, lua_tonumber(L, index));
        break;
    case LUA_TSTRING:
        text = lua_tolstring(L, index, &len);
        write_text(w, text, len);
        break;
    case LUA_TTABLE:
        write_table(w, index, depth);
        break;
    default:
        if (lua_type(L, index) != LUA_TLIGHTUSERDATA || lua_touserdata(L, index))
            luaL_error(L, "a %s cannot be JSON", luaL_typename(L, index));
        str_puts(w->out, "null");
    }
}

/* What an error must not leak is owned by a userdata. */
struct holder {
    struct str text;
    struct json *parsed;
};

static int
l_holder_gc(lua_State *L)
{
    struct holder *h = lua_touserdata(L, 1);
    str_free(&h->text);
    json_free(h->parsed);
    h->parsed = NULL;
    return 0;
}

static struct holder *
holder_new(lua_State *L)
{
    struct holder *h = class_new(L, JSON_HOLDER, sizeof(*h));
    str_init(&h->text);
    return h;
}

/* Frees at once what the holder at `index` has. */
static void
holder_done(lua_State *L, int index)
{
    lua_pushcfunction(L, l_holder_gc);
    lua_pushvalue(L, index);
    lua_call(L, 1, 0);
}

void
json_push_text(lua_State *L, int index, bool strict)
{
    struct holder *h = holder_new(L);
    int at = lua_gettop(L);
    struct writer w = {.L = L, .out = &h->text, .strict = strict};
    write_value(&w, index, 0);
    lua_pushlstring(L, h->text.data, h->text.len);
    holder_done(L, at);
    lua_remove(L, at);
}

/* While a value is built, an open object or array lies on the stack, in an object with the key above
 * it; `places` counts the items of each open array. */
struct builder {
    lua_State *L;
    int depth;
    int places[JSON_DEPTH_MAX + 2]; /* items so far, or -1 in an object */
    bool drop_nulls;
};

static void
build_store(struct builder *b)
{
    if (b->depth == 0)
        return;
    if (b->places[b->depth] < 0)
        lua_rawset(b->L, -3);
    else
        lua_rawseti(b->L, -2, ++b->places[b->depth]);
}

static void
build_null(void *arg)
{
    struct builder *b = arg;
    if (b->drop_nulls && b->depth > 0 && b->places[b->depth] < 0)
        lua_pop(b->L, 1);
    else {
        lua_pushlightuserdata(b->L, NULL);
        build_store(b);
    }
}

static void
build_boolean(void *arg, bool value)
{
    struct builder *b = arg;
    lua_pushboolean(b->L, value);
    build_store(b);
}

static void
build_number(void *arg, double value)
{
    struct builder *b = arg;
    lua_pushnumber(b->L, value);
    build_store(b);
}

static void
build_text(void *arg, const char *text, size_t len)
{
    struct builder *b = arg;
    lua_pushlstring(b->L, text, len);
    build_store(b);
}

static void
build_open(void *arg, bool object, size_t count)
{
    struct builder *b = arg;
    luaL_checkstack(b->L, 6, "JSON");
    lua_newtable(b->L);
    if (!object && count == 0) {
        luaL_getmetatable(b->L, JSON_ARRAY);
        lua_setmetatable(b->L, -2);
    }
    b->places[++b->depth] = object ? -1 : 0;
}

static void
build_key(void *arg, const char *key, size_t len)
{
    struct builder *b = arg;
    lua_pushlstring(b->L, key, len);
}

static void
build_close(void *arg, bool object)
{
    struct builder *b = arg;
    (void)object;
    b->depth--;
    build_store(b);
}

int
json_push_value(lua_State *L, const char *text, size_t len, bool drop_nulls, struct err *e)
{
    struct holder *h = holder_new(L);
    int at = lua_gettop(L);
    int rc = json_parse(&h->parsed, text, len, e);
    if (rc == 0) {
        struct builder b = {.L = L, .drop_nulls = drop_nulls};
        struct json_visitor v = {.null = build_null,
                                 .boolean = build_boolean,
                                 .number = build_number,
                                 .text = build_text,
                                 .open = build_open,
                                 .key = build_key,
                                 .close = build_close,
                                 .arg = &b};
        json_visit(h->parsed, &v);
    }
    holder_done(L, at);
    lua_remove(L, at);
    return rc;
}

/* mr.json_encode(value) -> text. Raises on what JSON cannot say. */
static int
l_json_encode(lua_State *L)
{
    luaL_checkany(L, 1);
    lua_settop(L, 1);
    json_push_text(L, 1, false);
    return 1;
}

/* mr.json_decode(text) -> value, or nil, err */
static int
l_json_decode(lua_State *L)
{
    size_t len;
    const char *text = luaL_checklstring(L, 1, &len);
    struct err e;
    if (json_push_value(L, text, len, false, &e))
        return error_return(L, &e);
    return 1;
}

/* mr.json_array(list) -> list, marked so that it is [] in JSON even when empty */
static int
l_json_array(lua_State *L)
{
    if (lua_isnoneornil(L, 1)) {
        lua_settop(L, 0);
        lua_newtable(L);
    }
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    luaL_getmetatable(L, JSON_ARRAY);
    lua_setmetatable(L, 1);
    return 1;
}

void
json_register(lua_State *L)
{
    luaL_newmetatable(L, JSON_ARRAY);
    lua_pushliteral(L, "array");
    lua_setfield(L, -2, "__metatable");
    luaL_newmetatable(L, JSON_HOLDER);
    lua_pushcfunction(L, l_holder_gc);
    lua_setfield(L, -2, "__gc");
    lua_pop(L, 2);
}

void
json_functions(lua_State *L)
{
    static const luaL_Reg functions[] = {{"json_encode", l_json_encode},
                                         {"json_decode", l_json_decode},
                                         {"json_array", l_json_array},
                                         {NULL, NULL}};
    luaL_setfuncs(L, functions, 0);
}
