/*
 * JSON text from Lua values and back. Private to engine/lua; may raise, inside a protected call.
 */
#ifndef MOONRISE_ENGINE_LUA_JSON_H
#define MOONRISE_ENGINE_LUA_JSON_H

#include <lua.h>
#include <stdbool.h>
#include <stddef.h>

struct err;

/* Pushes the JSON text of the value at `index`. Raises on functions, cycles, mixed keys, numbers that
 * are not finite. Bytes that are no UTF-8 become U+FFFD, or raise when `strict`. */
void json_push_text(lua_State *L, int index, bool strict);

/* Pushes the value of a JSON text. Nulls are mr.null, or left out when `drop_nulls`. ERR_FORMAT:
 * nothing is pushed. */
int json_push_value(lua_State *L, const char *text, size_t len, bool drop_nulls, struct err *e);

void json_register(lua_State *L);

/* mr.json_encode, mr.json_decode, mr.json_array. */
void json_functions(lua_State *L);

#endif
