#include "bind.h"
#include "objects.h"
#include "program.h"
#include "runtime.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"
#include "moonrise/loop/child.h"
#include "moonrise/loop/timer.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

struct program {
    struct wait wait;
    struct child *child;
    struct timer *timer;
    struct str out, errors;
    struct err why;  /* why it was killed, code 0 when it was not */
    size_t keep;     /* bytes of each output; more is dropped. 0: more is a failure */
    int64_t term_ms; /* from SIGTERM to SIGKILL when it is late; 0: killed at once */
    int code, signal;
};

int
program_too_long(struct err *e)
{
    return err_set(e, ERR_LIMIT, "it printed more than %d MiB", PROGRAM_OUTPUT_BYTES >> 20);
}

const char **
program_argv(lua_State *L, int arg)
{
    luaL_checktype(L, arg, LUA_TTABLE);
    luaL_argcheck(L, lua_objlen(L, arg) > 0, arg, "argv: at least a program expected");
    return text_list(L, arg, arg, "argv");
}

static void
program_free(struct program *p)
{
    child_free(p->child);
    timer_free(p->timer);
    str_free(&p->out);
    str_free(&p->errors);
    free(p);
}

static bool
program_cancel(struct wait *w, bool force)
{
    (void)force;
    program_free((struct program *)w);
    return true;
}

static void
program_append(struct program *p, struct str *to, const void *bytes, size_t len)
{
    size_t room = (p->keep ? p->keep : PROGRAM_OUTPUT_BYTES) - to->len;
    if (p->keep || len <= room) {
        str_append(to, bytes, len < room ? len : room);
        return;
    }
    if (!p->why.code)
        program_too_long(&p->why);
    child_kill(p->child, SIGKILL, true);
}

static void
program_out(void *arg, const void *bytes, size_t len)
{
    struct program *p = arg;
    program_append(p, &p->out, bytes, len);
}

static void
program_errors(void *arg, const void *bytes, size_t len)
{
    struct program *p = arg;
    program_append(p, &p->errors, bytes, len);
}

static int
push_result(lua_State *L, void *arg)
{
    struct program *p = arg;
    lua_createtable(L, 0, 4);
    set_number(L, "code", p->code);
    set_number(L, "signal", p->signal);
    lua_pushlstring(L, p->out.data, p->out.len);
    lua_setfield(L, -2, "stdout");
    lua_pushlstring(L, p->errors.data, p->errors.len);
    lua_setfield(L, -2, "stderr");
    return 1;
}

static void
program_exited(void *arg, int exit_code, int signal)
{
    struct program *p = arg;
    /* One that was late and has heeded SIGTERM may leave others of its group that do not. The number is
     * theirs for as long as one of them lives. */
    if (p->why.code == ERR_TIMEOUT)
        kill(-child_pid(p->child), SIGKILL);
    p->code = exit_code;
    p->signal = signal;
    if (p->why.code)
        wait_end(&p->wait, push_error, &p->why);
    else
        wait_end(&p->wait, push_result, p);
    program_free(p);
}

static void
program_late(void *arg)
{
    struct program *p = arg;
    bool first = p->why.code == 0;
    if (first)
        err_set(&p->why, ERR_TIMEOUT, "it did not end in time and was killed");
    bool asked = first && p->term_ms > 0;
    child_kill(p->child, asked ? SIGTERM : SIGKILL, true);
    if (asked)
        timer_again(p->timer, p->term_ms, 0);
}

/* NAME=VALUE texts: the environment of this process with the changes in options.env, or options.only_env
 * and nothing else. */
static const char **
program_env(lua_State *L)
{
    extern char **environ;
    static char *const nothing[] = {NULL};
    lua_getfield(L, 2, "only_env");
    bool only = !lua_isnil(L, -1);
    if (!only)
        lua_getfield(L, 2, "env");
    if (lua_isnil(L, -1))
        return NULL;
    if (!lua_istable(L, -1))
        luaL_argerror(L, 2,
                      only ? "options.only_env: table expected" : "options.env: table expected");
    int changes = lua_gettop(L), count = 0;
    lua_newtable(L);
    int list = lua_gettop(L);
    for (char *const *e = only ? nothing : environ; *e; e++) {
        lua_pushlstring(L, *e, strcspn(*e, "="));
        lua_rawget(L, changes);
        if (lua_isnil(L, -1)) {
            lua_pushstring(L, *e);
            lua_rawseti(L, list, ++count);
        }
        lua_pop(L, 1);
    }
    for (lua_pushnil(L); lua_next(L, changes); lua_pop(L, 1)) {
        if (lua_type(L, -2) != LUA_TSTRING || lua_type(L, -1) != LUA_TSTRING)
            luaL_argerror(L, 2, "options.env: names and values are text");
        lua_pushfstring(L, "%s=%s", lua_tostring(L, -2), lua_tostring(L, -1));
        lua_rawseti(L, list, ++count);
    }
    return text_list(L, 2, list, "options.env");
}

static int
program_start(lua_State *L, struct task *t, struct program *p, const char **argv, struct err *e)
{
    const char *input = opt_text(L, 2, "stdin", NULL);
    struct child_spec spec = {.argv = argv,
                              .env = program_env(L),
                              .cwd = opt_text(L, 2, "cwd", NULL),
                              .pipe_stdin = input != NULL,
                              .on_stdout = program_out,
                              .on_stderr = program_errors,
                              .on_exit = program_exited,
                              .arg = p};
    int rc = child_start(&p->child, t->rt->loop, &spec, e);
    if (rc || !input)
        return rc;
    lua_getfield(L, 2, "stdin");
    child_write(p->child, input, lua_objlen(L, -1));
    child_close_stdin(p->child);
    return 0;
}

/* mr.run(argv, options?) -> {code, signal, stdout, stderr}, or nil, err */
int
run_program(lua_State *L)
{
    static const char *const known[] = {"stdin", "timeout_ms", "term_ms",    "cwd",
                                        "env",   "only_env",   "keep_bytes", NULL};
    lua_settop(L, 2);
    opt_table(L, 2, known);
    const char **argv = program_argv(L, 1);
    int64_t timeout_ms = (int64_t)opt_number(L, 2, "timeout_ms", 0);
    int64_t term_ms = (int64_t)opt_number(L, 2, "term_ms", 0);
    size_t keep = (size_t)opt_number(L, 2, "keep_bytes", 0);
    opt_text(L, 2, "stdin", NULL);
    opt_text(L, 2, "cwd", NULL);
    struct task *t;
    int rc = task_enter(L, "run", &t);
    if (rc)
        return rc;
    (void)program_env(L); /* what is wrong with it raises here, while nothing is allocated */
    struct program *p = mem_zalloc(sizeof(*p));
    struct err e = {0};
    p->wait.cancel = program_cancel;
    p->wait.what = "a program";
    p->term_ms = term_ms;
    p->keep = keep < PROGRAM_OUTPUT_BYTES ? keep : PROGRAM_OUTPUT_BYTES;
    str_init(&p->out);
    str_init(&p->errors);
    if (program_start(L, t, p, argv, &e)) {
        program_free(p);
        return error_return(L, &e);
    }
    if (timeout_ms > 0)
        timer_deadline(&p->timer, t->rt->loop, timeout_ms, program_late, p);
    return task_wait(L, t, &p->wait, -1, 0);
}
