#include "module.h"

#include "bind.h"
#include "json.h"
#include "objects.h"
#include "places.h"
#include "resolve.h"
#include "runtime.h"

#include "moonrise/base/path.h"
#include "moonrise/base/str.h"
#include "moonrise/base/version.h"

#include <stdlib.h>

static void
module_places(lua_State *L)
{
    char *executable = places_executable();
    char *scripts = places_scripts(executable);
    char *above = path_dir(scripts);
    char *policies = path_join(above, "policies");
    set_text(L, "version", MOONRISE_VERSION);
    set_text(L, "executable", executable);
    set_text(L, "scripts_dir", scripts);
    set_text(L, "policies_dir", policies);
    lua_pushstring(L, executable);
    lua_setfield(L, LUA_REGISTRYINDEX, "moonrise.executable");
    free(policies);
    free(above);
    free(scripts);
    free(executable);
}

static void
module_classes(lua_State *L)
{
    error_register(L);
    runtime_register(L);
    task_register(L);
    queue_register(L);
    json_register(L);
    conn_register(L);
    agent_register(L);
    relay_register(L);
    prober_register(L);
    sandbox_register(L);
    lock_register(L);
}

/* A Lua state has one runtime: a second require of another copy of the module would make a second. */
int
luaopen_moonrise(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"error", error_make},        {"check", error_check},
        {"main", runtime_main},       {"_handles", runtime_handles},
        {"_classes", class_list},     {"sleep", sleep_for},
        {"spawn", task_spawn},        {"parallel", parallel_run},
        {"queue", queue_new},         {"connect", conn_connect},
        {"run", run_program},         {"agent", agent_open},
        {"relay", relay_open},        {"prober", prober_open},
        {"sandbox", sandbox_open},    {"resolve", resolve_name},
        {"on_signal", signal_handle}, {"daemonize", daemon_start},
        {"run_on", run_on},           {NULL, NULL}};
    module_classes(L);
    lua_newtable(L);
    luaL_setfuncs(L, functions, 0);
    json_functions(L);
    clock_functions(L);
    lsn_functions(L);
    fs_functions(L);
    os_functions(L);
    net_functions(L);
    term_functions(L);
    receive_functions(L);
    conninfo_functions(L);
    module_places(L);
    lua_pushlightuserdata(L, NULL);
    lua_setfield(L, -2, "null");
    return 1;
}
