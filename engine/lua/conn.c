#include "bind.h"
#include "objects.h"
#include "params.h"
#include "resolve.h"
#include "runtime.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"
#include "moonrise/conn/conn.h"
#include "moonrise/loop/loop.h"

#include <stdlib.h>

#define CONN "moonrise.Conn"

struct query;

struct object {
    struct open_object open; /* first: the runtime closes it */
    struct runtime *rt;
    struct conn *conn;   /* NULL once closed */
    struct query *query; /* the one that runs */
    int lost_ref;
};

struct query {
    struct wait wait;
    struct object *object;
};

/* An attempt to connect: maybe a name lookup, then the connection. */
struct attempt {
    struct wait wait;
    struct runtime *rt;
    struct params params;
    struct conn *conn;
    int64_t deadline_ms;
    bool looking_up;
};

static void
object_close(struct open_object *o)
{
    struct object *c = (struct object *)o;
    conn_free(c->conn);
    c->conn = NULL;
    luaL_unref(c->rt->L, LUA_REGISTRYINDEX, c->lost_ref);
    c->lost_ref = LUA_NOREF;
}

/* Closes, and ends the query that runs on it: its task gets an error. */
static void
object_end(struct object *c)
{
    if (!c->conn)
        return;
    runtime_forget(c->rt, &c->open);
    object_close(&c->open);
    struct query *q = c->query;
    c->query = NULL;
    if (q) {
        struct err e;
        err_set(&e, ERR_CONNECT, "the connection was closed while a query ran");
        wait_end(&q->wait, push_error, &e);
        free(q);
    }
}

static void
attempt_free(struct attempt *a)
{
    conn_free(a->conn);
    params_done(&a->params);
    free(a);
}

/* A name lookup cannot be stopped: it frees the attempt when it comes back. */
static bool
attempt_cancel(struct wait *w, bool force)
{
    (void)force;
    struct attempt *a = (struct attempt *)w;
    if (!a->looking_up)
        attempt_free(a);
    return true;
}

/* Pushes a Conn, which takes the connection over. */
static int
push_conn(lua_State *L, void *arg)
{
    struct attempt *a = arg;
    struct object *c = class_new(L, CONN, sizeof(*c));
    c->rt = a->rt;
    c->conn = a->conn;
    c->lost_ref = LUA_NOREF;
    c->open.close = object_close;
    runtime_own(c->rt, &c->open);
    a->conn = NULL;
    return 1;
}

static void
attempt_connected(void *arg, const struct err *e)
{
    struct attempt *a = arg;
    if (e)
        wait_end(&a->wait, push_error, (void *)e);
    else
        wait_end(&a->wait, push_conn, a);
    attempt_free(a);
}

static void
attempt_open(struct attempt *a)
{
    int64_t left_ms = a->deadline_ms - clock_ms();
    struct conn_spec spec = {.params = params_borrow(&a->params),
                             .timeout_ms = left_ms > 1 ? left_ms : 1,
                             .done = attempt_connected,
                             .arg = a};
    conn_open(&a->conn, a->rt->loop, &spec);
}

static void
attempt_found(void *arg, const struct resolution *found)
{
    struct attempt *a = arg;
    a->looking_up = false;
    if (!a->wait.task) {
        attempt_free(a);
        return;
    }
    if (params_resolve(&a->params, found)) {
        attempt_open(a);
        return;
    }
    struct err e;
    err_set(&e, ERR_CONNECT, "no address is known for host \"%s\"", found->names[0].name);
    wait_end(&a->wait, push_error, &e);
    attempt_free(a);
}

/* mr.connect(options) -> Conn, or nil, err */
int
conn_connect(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    struct task *t;
    int rc = task_enter(L, "connect", &t);
    if (rc)
        return rc;
    struct params params;
    params_read(L, 1, 1, &params);
    struct attempt *a = mem_zalloc(sizeof(*a));
    a->wait.cancel = attempt_cancel;
    a->wait.what = "the connection";
    a->rt = t->rt;
    a->params = params;
    a->deadline_ms = clock_ms() + (int64_t)params.timeout_ms;
    if (!params_need_lookup(&a->params)) {
        attempt_open(a);
        return task_wait(L, t, &a->wait, -1, 0);
    }
    struct err e;
    a->looking_up = true;
    if (resolve_start(t->rt, params_get(&a->params, "host"), attempt_found, a, &e)) {
        attempt_free(a);
        return error_return(L, &e);
    }
    return task_wait(L, t, &a->wait, (int64_t)params.timeout_ms + 100, 0);
}

static struct object *
conn_check(lua_State *L)
{
    return luaL_checkudata(L, 1, CONN);
}

struct answer {
    const struct result *result;
};

static int
push_answer(lua_State *L, void *arg)
{
    return rows_push(L, ((struct answer *)arg)->result);
}

static void
query_done(void *arg, const struct result *r, const struct err *e)
{
    struct query *q = arg;
    struct answer a = {.result = r};
    q->object->query = NULL;
    if (e)
        wait_end(&q->wait, push_error, (void *)e);
    else
        wait_end(&q->wait, push_answer, &a);
    free(q);
}

/* A session whose answer nobody waits for any more is of no use. */
static bool
query_cancel(struct wait *w, bool force)
{
    (void)force;
    struct query *q = (struct query *)w;
    struct object *c = q->object;
    c->query = NULL;
    free(q);
    object_end(c);
    return true;
}

/* Conn:query(sql, params?, options?) -> rows, or nil, err */
static int
l_query(lua_State *L)
{
    static const char *const known[] = {"timeout_ms", NULL};
    struct object *c = conn_check(L);
    struct statement st = {.sql = luaL_checkstring(L, 2)};
    lua_settop(L, 4);
    opt_table(L, 4, known);
    int64_t timeout_ms = (int64_t)opt_number(L, 4, "timeout_ms", 10000);
    if (!lua_isnil(L, 3))
        st.params = rows_params(L, 3, &st.nparams);
    struct task *t;
    int rc = task_enter(L, "query", &t);
    if (rc)
        return rc;
    if (c->query)
        return luaL_error(L, "query: another query runs on this connection");
    if (!c->conn || !conn_is_open(c->conn))
        return error_returnf(L, ERR_CONNECT, "the connection is closed");
    struct query *q = mem_zalloc(sizeof(*q));
    q->wait.cancel = query_cancel;
    q->wait.what = "a query";
    q->object = c;
    c->query = q;
    conn_query(c->conn, &st, timeout_ms, query_done, q);
    return task_wait(L, t, &q->wait, -1, 1);
}

static int
push_lost(lua_State *L, void *arg)
{
    error_push(L, arg);
    return 1;
}

static void
conn_lost(void *arg, const struct err *e)
{
    struct object *c = arg;
    runtime_callback_task(c->rt, c->lost_ref, push_lost, (void *)e);
}

/* Conn:on_lost(fn?) */
static int
l_on_lost(lua_State *L)
{
    struct object *c = conn_check(L);
    if (!lua_isnoneornil(L, 2))
        luaL_checktype(L, 2, LUA_TFUNCTION);
    if (!c->conn)
        return 0;
    luaL_unref(L, LUA_REGISTRYINDEX, c->lost_ref);
    c->lost_ref = LUA_NOREF;
    bool wanted = !lua_isnoneornil(L, 2);
    if (wanted) {
        lua_settop(L, 2);
        c->lost_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    }
    conn_on_lost(c->conn, wanted ? conn_lost : NULL, c);
    return 0;
}

/* Conn:is_open() -> boolean */
static int
l_is_open(lua_State *L)
{
    struct object *c = conn_check(L);
    lua_pushboolean(L, c->conn && conn_is_open(c->conn));
    return 1;
}

/* Conn:backend_pid() -> integer */
static int
l_backend_pid(lua_State *L)
{
    struct object *c = conn_check(L);
    lua_pushinteger(L, c->conn ? conn_backend_pid(c->conn) : 0);
    return 1;
}

/* Conn:server_version() -> integer */
static int
l_server_version(lua_State *L)
{
    struct object *c = conn_check(L);
    lua_pushinteger(L, c->conn ? conn_server_version(c->conn) : 0);
    return 1;
}

/* Conn:close() */
static int
l_close(lua_State *L)
{
    object_end(conn_check(L));
    return 0;
}

void
conn_register(lua_State *L)
{
    static const luaL_Reg methods[] = {{"query", l_query},
                                       {"on_lost", l_on_lost},
                                       {"is_open", l_is_open},
                                       {"backend_pid", l_backend_pid},
                                       {"server_version", l_server_version},
                                       {"close", l_close},
                                       {NULL, NULL}};
    class_register(L, CONN, methods, l_close);
}
