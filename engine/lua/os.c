#include "bind.h"
#include "objects.h"

#include "moonrise/base/err.h"
#include "moonrise/base/user.h"
#include "moonrise/conn/scram.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

/* mr.cwd() -> path */
static int
l_cwd(lua_State *L)
{
    char *cwd = getcwd(NULL, 0);
    lua_pushstring(L, cwd ? cwd : "/");
    free(cwd);
    return 1;
}

/* mr.getenv(name) -> text or nil */
static int
l_getenv(lua_State *L)
{
    lua_pushstring(L, getenv(luaL_checkstring(L, 1)));
    return 1;
}

/* mr.whoami() -> {uid, user, home, hostname, pid} */
static int
l_whoami(lua_State *L)
{
    char host[256] = "localhost";
    struct user user;
    const char *home = getenv("HOME");
    gethostname(host, sizeof(host) - 1);
    user_read(&user, NULL);
    lua_createtable(L, 0, 5);
    set_number(L, "uid", (double)geteuid());
    if (user.name)
        set_text(L, "user", user.name);
    else {
        lua_pushfstring(L, "%d", (int)geteuid());
        lua_setfield(L, -2, "user");
    }
    set_text(L, "home", home && *home ? home : user.home ? user.home : "/");
    user_done(&user);
    set_text(L, "hostname", host);
    set_number(L, "pid", (double)getpid());
    return 1;
}

/* mr.random_hex(bytes) -> text */
static int
l_random_hex(lua_State *L)
{
    unsigned char bytes[256];
    char text[2 * sizeof(bytes) + 1];
    int count = (int)luaL_checkinteger(L, 1);
    luaL_argcheck(L, count > 0 && count <= (int)sizeof(bytes), 1, "bytes: 1 to 256");
    must(getrandom(bytes, (size_t)count, 0) == count);
    for (int i = 0; i < count; i++)
        snprintf(text + 2 * i, 3, "%02x", bytes[i]);
    lua_pushlstring(L, text, 2 * (size_t)count);
    return 1;
}

/* mr.scram_secret(password) -> text */
static int
l_scram_secret(lua_State *L)
{
    char *secret = scram_secret(luaL_checkstring(L, 1));
    lua_pushstring(L, secret);
    free(secret);
    return 1;
}

static int
check_signal(lua_State *L, int arg)
{
    static const struct {
        const char *name;
        int signum;
    } signals[] = {{"TERM", SIGTERM}, {"KILL", SIGKILL}, {"STOP", SIGSTOP}, {"CONT", SIGCONT},
                   {"INT", SIGINT},   {"QUIT", SIGQUIT}, {"HUP", SIGHUP},   {"0", 0}};
    const char *name = luaL_checkstring(L, arg);
    for (size_t i = 0; i < sizeof(signals) / sizeof(signals[0]); i++)
        if (strcmp(signals[i].name, name) == 0)
            return signals[i].signum;
    return luaL_argerror(L, arg, "signal: TERM, KILL, STOP, CONT, INT, QUIT, HUP or 0 expected");
}

/* mr.kill(pid, signal) -> true, or nil, err: "notfound" when there is no such process. One process
 * only: 0 and negative numbers, which mean groups, are wrong use. */
static int
l_kill(lua_State *L)
{
    double pid = luaL_checknumber(L, 1);
    luaL_argcheck(L, pid >= 1 && pid <= 1 << 30 && pid == (int)pid, 1,
                  "pid: a process id expected");
    if (kill((pid_t)pid, check_signal(L, 2)) == 0) {
        lua_pushboolean(L, true);
        return 1;
    }
    if (errno == ESRCH)
        return error_returnf(L, ERR_NOTFOUND, "there is no process %d", (int)pid);
    struct err e;
    err_sys(&e, errno, "signal process %d", (int)pid);
    return error_return(L, &e);
}

void
os_functions(lua_State *L)
{
    static const luaL_Reg functions[] = {{"cwd", l_cwd},       {"getenv", l_getenv},
                                         {"whoami", l_whoami}, {"random_hex", l_random_hex},
                                         {"kill", l_kill},     {"scram_secret", l_scram_secret},
                                         {NULL, NULL}};
    luaL_setfuncs(L, functions, 0);
}
