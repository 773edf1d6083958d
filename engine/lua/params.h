/*
 * Connection options of scripts as libpq's keywords and values. Private to engine/lua.
 */
#ifndef MOONRISE_ENGINE_LUA_PARAMS_H
#define MOONRISE_ENGINE_LUA_PARAMS_H

#include "moonrise/conn/conn.h"

#include <lua.h>

struct resolution;

#define PARAMS_MAX 40

/* Copies, NULL-terminated; freed by params_done. */
struct params {
    char *keywords[PARAMS_MAX + 1];
    char *values[PARAMS_MAX + 1];
    int count;
    double timeout_ms; /* connect_timeout_ms */
};

/* Reads the table at `index`. Raises in the name of argument `arg` before anything is allocated. */
void params_read(lua_State *L, int arg, int index, struct params *p);

const char *params_get(const struct params *p, const char *keyword);
void params_set(struct params *p, const char *keyword, const char *value);

/* Whether `host` holds a name that would have to be looked up. */
bool params_need_lookup(const struct params *p);

/* Replaces `host` (and `port`) by one entry for each address that was found, with `hostaddr`. False:
 * no host is left. */
bool params_resolve(struct params *p, const struct resolution *found);

struct conn_params params_borrow(const struct params *p);
void params_done(struct params *p);

#endif
