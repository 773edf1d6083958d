#include "params.h"

#include "bind.h"
#include "objects.h"
#include "resolve.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void
params_check(lua_State *L, int arg, int index)
{
    int count = 0;
    for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) {
        if (lua_type(L, -2) != LUA_TSTRING)
            luaL_argerror(L, arg, "connection options have names");
        const char *key = lua_tostring(L, -2);
        int type = lua_type(L, -1);
        bool number = strcmp(key, "connect_timeout_ms") == 0;
        if (number ? type != LUA_TNUMBER
                   : type != LUA_TSTRING && type != LUA_TNUMBER && type != LUA_TBOOLEAN)
            luaL_argerror(L, arg,
                          lua_pushfstring(L, "%s: %s expected, got %s", key,
                                          number ? "number" : "text", luaL_typename(L, -1)));
        if (number && !(lua_tonumber(L, -1) > 0 && lua_tonumber(L, -1) <= 86400e3))
            luaL_argerror(L, arg, "connect_timeout_ms: out of range");
        if (++count > PARAMS_MAX - 4)
            luaL_argerror(L, arg, "too many connection options");
    }
}

static void
params_add(struct params *p, const char *keyword, char *value)
{
    p->keywords[p->count] = mem_strdup(keyword);
    p->values[p->count++] = value;
}

void
params_read(lua_State *L, int arg, int index, struct params *p)
{
    params_check(L, arg, index);
    memset(p, 0, sizeof(*p));
    p->timeout_ms = 5000;
    for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) {
        const char *key = lua_tostring(L, -2);
        if (strcmp(key, "connect_timeout_ms") == 0)
            p->timeout_ms = lua_tonumber(L, -1);
        else if (lua_isboolean(L, -1))
            params_add(p, key, mem_strdup(lua_toboolean(L, -1) ? "1" : "0"));
        else if (lua_type(L, -1) == LUA_TNUMBER)
            params_add(p, key, mem_printf("%.0f", lua_tonumber(L, -1)));
        else
            params_add(p, key, mem_strdup(lua_tostring(L, -1)));
    }
}

const char *
params_get(const struct params *p, const char *keyword)
{
    for (int i = 0; i < p->count; i++)
        if (strcmp(p->keywords[i], keyword) == 0)
            return p->values[i];
    return NULL;
}

void
params_set(struct params *p, const char *keyword, const char *value)
{
    char *copy = mem_strdup(value);
    for (int i = 0; i < p->count; i++)
        if (strcmp(p->keywords[i], keyword) == 0) {
            free(p->values[i]);
            p->values[i] = copy;
            return;
        }
    params_add(p, keyword, copy);
}

bool
params_need_lookup(const struct params *p)
{
    const char *host = params_get(p, "host");
    return host && !params_get(p, "hostaddr") && resolve_needed(host);
}

/* The i-th of a comma list, or its only one; "" when there is none. */
static char *
list_item(const char *list, size_t i)
{
    const char *comma = list ? strchr(list, ',') : NULL;
    for (; comma && i > 0; i--) {
        list = comma + 1;
        comma = strchr(list, ',');
    }
    if (!list)
        return mem_strdup("");
    return mem_printf("%.*s", (int)(comma ? comma - list : (long)strlen(list)), list);
}

bool
params_resolve(struct params *p, const struct resolution *found)
{
    struct str host = STR_INIT, addr = STR_INIT, port = STR_INIT;
    int count = 0;
    for (size_t i = 0; i < found->count; i++) {
        char *own_port = list_item(params_get(p, "port"), i);
        for (size_t k = 0; k < found->names[i].count; k++) {
            const char *comma = count++ ? "," : "";
            str_printf(&host, "%s%s", comma, found->names[i].name);
            str_printf(&addr, "%s%s", comma, found->names[i].addresses[k]);
            str_printf(&port, "%s%s", comma, own_port);
        }
        free(own_port);
    }
    params_set(p, "host", host.data);
    params_set(p, "hostaddr", addr.data);
    params_set(p, "port", port.data);
    str_free(&host);
    str_free(&addr);
    str_free(&port);
    return count > 0;
}

struct conn_params
params_borrow(const struct params *p)
{
    return (struct conn_params){.keywords = (const char *const *)p->keywords,
                                .values = (const char *const *)p->values};
}

void
params_done(struct params *p)
{
    for (int i = 0; i < p->count; i++) {
        free(p->keywords[i]);
        free(p->values[i]);
    }
    p->count = 0;
}

/* mr.conninfo(text) -> options, or nil, err */
static int
l_conninfo(lua_State *L)
{
    struct conn_params params;
    struct err e;
    if (conn_params_parse(&params, luaL_checkstring(L, 1), &e))
        return error_return(L, &e);
    lua_newtable(L);
    for (size_t i = 0; params.keywords[i]; i++)
        set_text(L, params.keywords[i], params.values[i]);
    conn_params_free(&params);
    return 1;
}

void
conninfo_functions(lua_State *L)
{
    lua_pushcfunction(L, l_conninfo);
    lua_setfield(L, -2, "conninfo");
}
