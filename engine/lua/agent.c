#include "bind.h"
#include "json.h"
#include "objects.h"
#include "runtime.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"
#include "moonrise/loop/timer.h"
#include "moonrise/wire/channel.h"
#include "moonrise/wire/message.h"
#include "moonrise/wire/session.h"
#include "moonrise/wire/ssh.h"

#include <stdlib.h>
#include <string.h>

#define AGENT "moonrise.Agent"

/* How long a withdrawn call may take to say how it ended. */
enum { WITHDRAW_MS = 5000 };

/* Until an agent on another host is started. */
enum { CONNECT_MS = 10000 };

struct object {
    struct open_object open; /* first: the runtime closes it */
    struct runtime *rt;
    struct session *session; /* NULL once closed */
    bool up, ended;
    struct err why;       /* once it has ended */
    struct wait *waiting; /* until it is up */
};

struct ready {
    struct wait wait;
    struct object *object;
};

struct call {
    struct wait wait;
    struct object *object;
    struct runtime *rt;
    uint32_t id;
    struct timer *patience;
    int progress_ref;
};

static void
object_forget(struct object *a, struct wait *w)
{
    struct wait **place = &a->waiting;
    while (*place != w)
        place = &(*place)->next;
    *place = w->next;
}

/* Those who wait until it is up go on: it is, or there is a reason why not. */
static void
object_tell(struct object *a)
{
    while (a->waiting) {
        struct wait *w = a->waiting;
        object_forget(a, w);
        wait_end(w, a->up ? NULL : push_error, &a->why);
        free(w);
    }
}

static void
object_close(struct open_object *o)
{
    struct object *a = (struct object *)o;
    struct session *s = a->session;
    a->session = NULL;
    session_free(s);
    if (!a->ended)
        err_set(&a->why, ERR_CANCELLED, "the agent was closed");
    object_tell(a);
}

static void
object_end(struct object *a)
{
    if (!a->session)
        return;
    runtime_forget(a->rt, &a->open);
    object_close(&a->open);
}

static void
agent_ended(void *arg, const struct err *why)
{
    struct object *a = arg;
    a->ended = true;
    a->up = false;
    a->why = *why;
    object_tell(a);
}

static void
agent_up(void *arg)
{
    struct object *a = arg;
    a->up = true;
    object_tell(a);
}

/* Pushes the command line of an agent: this program's, here or on another host, with the word "agent". */
static void
push_argv(lua_State *L, const char *host)
{
    lua_getfield(L, LUA_REGISTRYINDEX, "moonrise.executable");
    const char *executable = lua_tostring(L, -1);
    /* The host is there for who looks at the list of processes. */
    const char *const here[] = {executable, "agent", NULL}, *const words[] = {"agent", host, NULL};
    const char **there = host ? ssh_moonrise(executable, words) : NULL;
    const char *const *argv = host ? there : here;
    lua_newtable(L);
    for (int i = 0; argv[i]; i++) {
        lua_pushstring(L, argv[i]);
        lua_rawseti(L, -2, i + 1);
    }
    free(there);
}

/* options.argv, or the usual one. */
static const char **
agent_argv(lua_State *L, const char *host)
{
    lua_getfield(L, 1, "argv");
    if (lua_isnil(L, -1))
        push_argv(L, host);
    else if (!lua_istable(L, -1) || lua_objlen(L, -1) == 0)
        luaL_argerror(L, 1, "options.argv: list of texts expected");
    return text_list(L, 1, lua_gettop(L), "options.argv");
}

/* mr.agent(options?) -> Agent, or nil, err */
int
agent_open(lua_State *L)
{
    static const char *const known[] = {"argv", "host", "connect_ms", NULL};
    lua_settop(L, 1);
    opt_table(L, 1, known);
    struct runtime *rt = runtime_running(L, "agent");
    struct channel_host host = {.name = opt_text(L, 1, "host", NULL)};
    host.connect_ms = (int64_t)opt_number(L, 1, "connect_ms", CONNECT_MS);
    host.argv = agent_argv(L, host.name);
    struct object *a = class_new(L, AGENT, sizeof(*a));
    struct session_events events = {.on_end = agent_ended, .arg = a, .on_up = agent_up};
    struct err e;
    a->rt = rt;
    a->open.close = object_close;
    int rc = host.name ? session_start_ssh(&a->session, rt->loop, &host, &events, &e)
                       : session_start(&a->session, rt->loop, host.argv, &events, &e);
    if (rc) {
        a->session = NULL;
        return error_return(L, &e);
    }
    runtime_own(rt, &a->open);
    return 1;
}

static struct object *
agent_check(lua_State *L)
{
    return luaL_checkudata(L, 1, AGENT);
}

/* Why a call cannot be sent any more. */
static int
agent_gone(lua_State *L, const struct object *a)
{
    if (!a->ended)
        return error_returnf(L, ERR_CONNECT, "the agent was closed");
    return error_return(L, &a->why);
}

static bool
ready_cancel(struct wait *w, bool force)
{
    (void)force;
    object_forget(((struct ready *)w)->object, w);
    free(w);
    return true;
}

/* Agent:ready(timeout_ms?) -> true, or nil, err */
static int
l_ready(lua_State *L)
{
    struct object *a = agent_check(L);
    int64_t timeout_ms = arg_ms(L, 2, -1);
    struct task *t;
    int rc = task_enter(L, "ready", &t);
    if (rc)
        return rc;
    if (!a->session || a->ended)
        return agent_gone(L, a);
    if (a->up) {
        lua_pushboolean(L, true);
        return 1;
    }
    struct ready *r = mem_zalloc(sizeof(*r));
    r->wait = (struct wait){.cancel = ready_cancel, .what = "the agent", .next = a->waiting};
    r->object = a;
    a->waiting = &r->wait;
    return task_wait(L, t, &r->wait, timeout_ms, 1);
}

static void
call_free(struct call *c)
{
    timer_free(c->patience);
    luaL_unref(c->rt->L, LUA_REGISTRYINDEX, c->progress_ref);
    free(c);
}

static int
push_message(lua_State *L, void *arg)
{
    struct err e;
    char *text = message_format(arg);
    int rc = json_push_value(L, text, strlen(text), true, &e);
    free(text);
    return rc ? error_return(L, &e) : 1;
}

static void
call_progress(void *arg, const struct message *m)
{
    struct call *c = arg;
    if (c->wait.task)
        runtime_callback(c->rt, c->progress_ref, push_message, (void *)m);
}

static void
call_done(void *arg, const struct message *m, const struct err *e)
{
    struct call *c = arg;
    if (e)
        wait_end(&c->wait, push_error, (void *)e);
    else
        wait_end(&c->wait, push_message, (void *)m);
    call_free(c);
}

/* The far end did not say in time how the withdrawn call ended; its answer is awaited no more. */
static void
call_impatient(void *arg)
{
    struct call *c = arg;
    struct err e;
    err_set(&e, ERR_CANCELLED, "cancelled; the agent has not confirmed it within %d s",
            WITHDRAW_MS / 1000);
    wait_end(&c->wait, push_error, &e);
}

/* The far end is told to stop, and its answer tells how far it came: it may have finished. By force the
 * task goes on at once, and the call is freed when its answer comes or the session ends. */
static bool
call_cancel(struct wait *w, bool force)
{
    struct call *c = (struct call *)w;
    if (c->object->session && !c->patience)
        session_cancel(c->object->session, c->id);
    if (!force && !c->patience)
        timer_start(&c->patience, c->rt->loop, WITHDRAW_MS, call_impatient, c);
    return force;
}

/* Turns the argument table into a message, which the caller frees. */
static struct message *
call_message(lua_State *L, int arg)
{
    struct err e;
    struct message *m;
    size_t len;
    if (lua_isnil(L, arg)) {
        lua_newtable(L);
        lua_replace(L, arg);
    }
    luaL_checktype(L, arg, LUA_TTABLE);
    json_push_text(L, arg, true);
    const char *text = lua_tolstring(L, -1, &len);
    if (len == 2)
        return message_new();
    if (message_parse(&m, text, len, &e))
        luaL_argerror(L, arg, lua_pushfstring(L, "args: %s", e.message));
    return m;
}

static struct call *
call_new(lua_State *L, struct object *a)
{
    struct call *c = mem_zalloc(sizeof(*c));
    c->wait.cancel = call_cancel;
    c->wait.what = "the agent's answer";
    c->object = a;
    c->rt = a->rt;
    c->progress_ref = LUA_NOREF;
    if (opt_function(L, 4, "progress"))
        c->progress_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    return c;
}

/* Agent:call(op, args?, options?) -> result, or nil, err */
static int
l_call(lua_State *L)
{
    static const char *const known[] = {"timeout_ms", "progress", NULL};
    struct object *a = agent_check(L);
    const char *op = luaL_checkstring(L, 2);
    lua_settop(L, 4);
    opt_table(L, 4, known);
    int64_t timeout_ms = (int64_t)opt_number(L, 4, "timeout_ms", 30000);
    if (opt_function(L, 4, "progress"))
        lua_pop(L, 1);
    struct task *t;
    int rc = task_enter(L, "call", &t);
    if (rc)
        return rc;
    if (!a->session || a->ended)
        return agent_gone(L, a);
    struct message *m = call_message(L, 3);
    struct call *c = call_new(L, a);
    struct session_call spec = {.on_progress = call_progress, .on_done = call_done, .arg = c};
    c->id = session_call(a->session, op, m, timeout_ms, &spec);
    message_free(m);
    return task_wait(L, t, &c->wait, -1, 1);
}

/* Agent:is_open() -> boolean */
static int
l_is_open(lua_State *L)
{
    struct object *a = agent_check(L);
    lua_pushboolean(L, a->session && !a->ended);
    return 1;
}

/* Agent:pid() -> integer */
static int
l_pid(lua_State *L)
{
    struct object *a = agent_check(L);
    lua_pushinteger(L, a->session ? session_pid(a->session) : 0);
    return 1;
}

/* Agent:close() */
static int
l_close(lua_State *L)
{
    object_end(agent_check(L));
    return 0;
}

void
agent_register(lua_State *L)
{
    static const luaL_Reg methods[] = {{"call", l_call}, {"ready", l_ready}, {"is_open", l_is_open},
                                       {"pid", l_pid},   {"close", l_close}, {NULL, NULL}};
    class_register(L, AGENT, methods, l_close);
}
