/*
 * What the bindings share: classes of boxed objects, error values, options in tables.
 *
 * Private to engine/lua. Every function here may raise a Lua error and is called inside a protected
 * call; objects are userdata with a locked metatable, so that scripts cannot forge or change them.
 */
#ifndef MOONRISE_ENGINE_LUA_BIND_H
#define MOONRISE_ENGINE_LUA_BIND_H

#include <lauxlib.h>
#include <lua.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct str;

/* Registers class `name` ("moonrise.Conn"): methods, __gc (may be NULL), locked metatable. */
void class_register(lua_State *L, const char *name, const luaL_Reg *methods, lua_CFunction gc);

/* Pushes a new zeroed object of a registered class. Read one back with luaL_checkudata. */
void *class_new(lua_State *L, const char *name, size_t bytes);

/* Pushes {Conn = {"close", ...}, ...}: every class with its method names. */
int class_list(lua_State *L);

/* Registers the metatable of error values. */
void error_register(lua_State *L);

/* Pushes an error value made from *e. */
void error_push(lua_State *L, const struct err *e);

/* Pushes an error value with a code and a message; printf without its modifiers (lua_pushfstring). */
void error_pushf(lua_State *L, int code, const char *fmt, ...);

/* Pushes nil and an error value made from *e, and returns 2: `return error_return(L, &e);`. */
int error_return(lua_State *L, const struct err *e);
int error_returnf(lua_State *L, int code, const char *fmt, ...);

/* Whether the value is an error value. */
bool error_is(lua_State *L, int index);

/* Replaces the value on top, whatever was raised, by an error value: text becomes one with code
 * "raised". */
void error_wrap(lua_State *L);

/* Pushes the text of any raised value without calling into scripts that could raise again. */
void error_text(lua_State *L, int index);

/* mr.error and mr.check. */
int error_make(lua_State *L);
int error_check(lua_State *L);

/* Options: argument `arg` is a table with no other keys than `known` (NULL-terminated, NULL for any),
 * or nil, which becomes an empty table. Anything else raises at the caller's line. */
void opt_table(lua_State *L, int arg, const char *const *known);

/* One option. Text is borrowed from the table. A value of another type raises. */
const char *opt_text(lua_State *L, int arg, const char *key, const char *otherwise);
double opt_number(lua_State *L, int arg, const char *key, double otherwise);
/* True when the option is there and a function, which is then pushed. */
bool opt_function(lua_State *L, int arg, const char *key);

/* One field of the table on top of the stack. */
void set_text(lua_State *L, const char *key, const char *text);
void set_number(lua_State *L, const char *key, double number);
void set_bool(lua_State *L, const char *key, bool value);

/* A NULL-terminated array of the strings of the list at `index`, as a userdata that is pushed and
 * that anchors nothing: valid while the list is. Raises naming `what`. */
const char **text_list(lua_State *L, int arg, int index, const char *what);

/* Milliseconds from an optional argument; not negative, at most a year. */
int64_t arg_ms(lua_State *L, int arg, int64_t otherwise);

#endif
