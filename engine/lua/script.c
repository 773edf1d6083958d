#include "moonrise/lua/script.h"

#include "bind.h"
#include "module.h"
#include "runtime.h"

#include "moonrise/base/err.h"

#include <luajit.h>
#include <lualib.h>
#include <stdio.h>

struct run {
    const struct script_spec *spec;
    int code;
};

/* Scripts are found in the packaged folder only, whatever LUA_PATH says. */
static void
set_package(lua_State *L)
{
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "preload");
    lua_pushcfunction(L, luaopen_moonrise);
    lua_setfield(L, -2, "moonrise");
    lua_pop(L, 1);
    lua_getglobal(L, "require");
    lua_pushliteral(L, "moonrise");
    lua_call(L, 1, 1);
    lua_getfield(L, -1, "scripts_dir");
    lua_pushfstring(L, "%s/?.lua", lua_tostring(L, -1));
    lua_setfield(L, -4, "path");
    lua_pushliteral(L, "");
    lua_setfield(L, -4, "cpath");
    lua_pop(L, 1);
    lua_remove(L, -2); /* leaves the module */
}

static void
push_arguments(lua_State *L, const struct script_spec *spec)
{
    lua_pushstring(L, spec->name);
    lua_createtable(L, spec->argc, 0);
    for (int i = 0; i < spec->argc; i++) {
        lua_pushstring(L, spec->argv[i]);
        lua_rawseti(L, -2, i + 1);
    }
    lua_pushstring(L, spec->invoked);
}

static int
script_code(lua_State *L)
{
    if (lua_isnumber(L, -1))
        return (int)lua_tointeger(L, -1) & 0xff;
    return lua_isnil(L, -1) || lua_toboolean(L, -1) ? 0 : 1;
}

static int
script_run(lua_State *L)
{
    struct run *run = lua_touserdata(L, 1);
    luaL_openlibs(L);
    /* Traces that Debian's LuaJIT (2.1.0-beta3 of 2022) compiled have read stray pointers in long runs. No
     * script is so busy that it needs the compiler, and the watcher runs for months. */
    luaJIT_setmode(L, 0, LUAJIT_MODE_ENGINE | LUAJIT_MODE_OFF);
    set_package(L);
    runtime_of(L)->verbose = run->spec->verbose;
    lua_getfield(L, -1, "main");
    lua_getglobal(L, "require");
    lua_pushliteral(L, "lib.runbook");
    lua_call(L, 1, 1);
    lua_getfield(L, -1, "start");
    lua_remove(L, -2);
    push_arguments(L, run->spec);
    lua_call(L, 4, 1);
    run->code = script_code(L);
    return 0;
}

static void
script_report(lua_State *L, bool verbose)
{
    error_text(L, -1);
    fprintf(stderr, "moonrise: %s\n", lua_tostring(L, -1));
    lua_getfield(L, LUA_REGISTRYINDEX, "moonrise.traceback");
    if (verbose && lua_isstring(L, -1))
        fprintf(stderr, "%s\n", lua_tostring(L, -1));
    lua_pop(L, 2);
}

int
script_main(const struct script_spec *spec)
{
    struct run run = {.spec = spec};
    lua_State *L = luaL_newstate();
    must(L);
    if (lua_cpcall(L, script_run, &run)) {
        script_report(L, spec->verbose);
        run.code = 1;
    }
    lua_close(L);
    return run.code;
}
