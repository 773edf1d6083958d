/*
 * What mr.run and mr.run_on share: the words of a program, and how much it may print. Private to
 * engine/lua.
 */
#ifndef MOONRISE_ENGINE_LUA_PROGRAM_H
#define MOONRISE_ENGINE_LUA_PROGRAM_H

#include <lua.h>

struct err;

/* What a program may print before it is ended: enough for any log, little for memory. */
#define PROGRAM_OUTPUT_BYTES (64 << 20)

/* That it printed more: ERR_LIMIT. */
int program_too_long(struct err *e);

/* The words of a program from the list that is argument `arg`, as text_list gives them. Raises when
 * there is none. */
const char **program_argv(lua_State *L, int arg);

#endif
