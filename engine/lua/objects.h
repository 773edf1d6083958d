/*
 * The tables and objects that scripts see, one file each: what the module puts together. Private to
 * engine/lua. Every `int x(lua_State *)` is a bound function; scripts/meta is its manual.
 */
#ifndef MOONRISE_ENGINE_LUA_OBJECTS_H
#define MOONRISE_ENGINE_LUA_OBJECTS_H

#include <lua.h>

struct result;

/* Rows of a query: pushes the table of a result; the list at `index` as text parameters, in a userdata
 * that is pushed. */
int rows_push(lua_State *L, const struct result *r);
const char *const *rows_params(lua_State *L, int index, int *count);

/* Classes. */
void conn_register(lua_State *L);
void agent_register(lua_State *L);
void relay_register(lua_State *L);
void prober_register(lua_State *L);
void sandbox_register(lua_State *L);
void lock_register(lua_State *L);

/* Functions. */
int conn_connect(lua_State *L);
int agent_open(lua_State *L);
int relay_open(lua_State *L);
int prober_open(lua_State *L);
int sandbox_open(lua_State *L);
int run_program(lua_State *L);
int run_on(lua_State *L);
int signal_handle(lua_State *L);
int daemon_start(lua_State *L);

/* Added to the table on top of the stack. */
void clock_functions(lua_State *L);
void fs_functions(lua_State *L);
void os_functions(lua_State *L);
void net_functions(lua_State *L);
void term_functions(lua_State *L);
void lsn_functions(lua_State *L);
void receive_functions(lua_State *L);
void conninfo_functions(lua_State *L);

#endif
