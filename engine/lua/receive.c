#include "bind.h"
#include "objects.h"
#include "params.h"
#include "resolve.h"
#include "runtime.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"
#include "moonrise/loop/job.h"
#include "moonrise/stream/stream.h"

#include <stdlib.h>
#include <string.h>

/* A WAL stream on a thread of its own, after maybe a name lookup; a task waits for its end. */
struct receive {
    struct wait wait;
    struct runtime *rt;
    struct params params;
    struct stream_spec spec;
    char *directory, *slot;
    int progress_ref;
    bool looking_up;
    struct job *job;
    struct job_self *self;
    struct stream_result result;
    int rc;
    struct err e;
};

/* What a stream said, on its way from its thread to the loop. */
struct word {
    struct stream_event event;
    char *name;
};

static const char *const codecs[] = {[STREAM_GZIP] = "gzip", [STREAM_LZ4] = "lz4"};

static void
receive_free(struct receive *r)
{
    luaL_unref(r->rt->L, LUA_REGISTRYINDEX, r->progress_ref);
    params_done(&r->params);
    free(r->directory);
    free(r->slot);
    free(r);
}

/* A lookup cannot be stopped, and frees what it is for when it comes back. A stream ends tidily. */
static bool
receive_cancel(struct wait *w, bool force)
{
    struct receive *r = (struct receive *)w;
    if (r->looking_up)
        return true;
    job_cancel(r->job);
    return force;
}

static int
push_word(lua_State *L, void *arg)
{
    static const char *const kinds[] = {[STREAM_BEGINS] = "begins",
                                        [STREAM_FINISHED] = "finished",
                                        [STREAM_SWITCHED] = "switched",
                                        [STREAM_IGNORED] = "ignored"};
    const struct word *word = arg;
    lua_createtable(L, 0, 4);
    set_text(L, "event", kinds[word->event.kind]);
    if (word->name) {
        set_text(L, "name", word->name);
        return 1;
    }
    set_number(L, "lsn", (double)word->event.lsn);
    set_number(L, "timeline", word->event.timeline);
    return 1;
}

static void
receive_said(void *arg, void *message)
{
    struct receive *r = arg;
    struct word *word = message;
    if (r->progress_ref != LUA_NOREF && r->wait.task)
        runtime_callback(r->rt, r->progress_ref, push_word, word);
    free(word->name);
    free(word);
}

/* On the stream's thread. */
static void
post_word(void *arg, const struct stream_event *event)
{
    struct receive *r = arg;
    struct word *word = mem_zalloc(sizeof(*word));
    word->event = *event;
    word->name = event->name ? mem_strdup(event->name) : NULL;
    job_post(r->self, word);
}

static void
receive_run(struct job_self *self, void *arg)
{
    struct receive *r = arg;
    r->self = self;
    r->spec.params = params_borrow(&r->params);
    r->spec.cancel = &self->cancel;
    r->rc = stream_receive(&r->result, &r->spec, &r->e);
}

static int
push_result(lua_State *L, void *arg)
{
    const struct stream_result *result = arg;
    lua_createtable(L, 0, 3);
    set_number(L, "begin_lsn", (double)result->begin_lsn);
    set_number(L, "lsn", (double)result->lsn);
    set_number(L, "timeline", result->timeline);
    return 1;
}

static void
receive_done(void *arg)
{
    struct receive *r = arg;
    r->rt->jobs--;
    if (r->rc)
        wait_end(&r->wait, push_error, &r->e);
    else
        wait_end(&r->wait, push_result, &r->result);
    receive_free(r);
}

static int
receive_start(struct receive *r, struct err *e)
{
    struct job_spec spec = {
        .run = receive_run, .done = receive_done, .said = receive_said, .arg = r};
    int rc = job_start(&r->job, r->rt->loop, &spec, e);
    r->rt->jobs += rc == 0;
    return rc;
}

static void
receive_found(void *arg, const struct resolution *found)
{
    struct receive *r = arg;
    struct err e;
    int rc = 0;
    r->looking_up = false;
    if (!r->wait.task) {
        receive_free(r);
        return;
    }
    if (!params_resolve(&r->params, found))
        rc = err_set(&e, ERR_CONNECT, "no address is known for host \"%s\"", found->names[0].name);
    if (rc == 0)
        rc = receive_start(r, &e);
    if (rc == 0)
        return;
    wait_end(&r->wait, push_error, &e);
    receive_free(r);
}

static bool
opt_flag(lua_State *L, const char *key, bool otherwise)
{
    lua_getfield(L, 1, key);
    bool flag = lua_isnil(L, -1) ? otherwise : lua_toboolean(L, -1);
    lua_pop(L, 1);
    return flag;
}

static enum stream_codec
opt_codec(lua_State *L)
{
    const char *name = opt_text(L, 1, "compress", NULL);
    for (int i = STREAM_GZIP; i <= STREAM_LZ4; i++)
        if (name && strcmp(name, codecs[i]) == 0)
            return (enum stream_codec)i;
    if (name)
        luaL_argerror(L, 1, "options.compress: \"gzip\" or \"lz4\" expected");
    return STREAM_PLAIN;
}

static struct stream_spec
receive_spec(lua_State *L)
{
    struct stream_spec spec = {.end_lsn = (lsn_t)opt_number(L, 1, "end_lsn", 0),
                               .codec = opt_codec(L),
                               .level = (int)opt_number(L, 1, "level", 0),
                               .sync = opt_flag(L, "sync", true),
                               .synchronous = opt_flag(L, "synchronous", false),
                               .never_synchronous = opt_flag(L, "never_synchronous", false),
                               .status_ms = (int64_t)opt_number(L, 1, "status_ms", 10000),
                               .silence_ms = (int64_t)opt_number(L, 1, "silence_ms", 60000),
                               .said = post_word};
    luaL_argcheck(L, spec.silence_ms > 0, 1, "options.silence_ms: at least 1");
    return spec;
}

/* The options' checks are done: nothing raises from here on. Params are taken over. */
static struct receive *
receive_new(lua_State *L, struct runtime *rt, const struct params *params)
{
    const char *slot = opt_text(L, 1, "slot", NULL);
    struct receive *r = mem_zalloc(sizeof(*r));
    r->wait.cancel = receive_cancel;
    r->wait.what = "a WAL stream";
    r->rt = rt;
    r->params = *params;
    r->spec = receive_spec(L);
    r->spec.directory = r->directory = mem_strdup(opt_text(L, 1, "directory", ""));
    r->spec.slot = r->slot = slot ? mem_strdup(slot) : NULL;
    r->spec.connect_ms = (int64_t)params->timeout_ms;
    r->spec.arg = r;
    r->progress_ref = LUA_NOREF;
    if (opt_function(L, 1, "progress"))
        r->progress_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    return r;
}

/* mr.receive_wal(options) -> {begin_lsn, lsn, timeline}, or nil, err */
static int
l_receive_wal(lua_State *L)
{
    static const char *const known[] = {
        "conn",      "directory",   "slot",       "end_lsn",           "compress", "level", "sync",
        "status_ms", "synchronous", "silence_ms", "never_synchronous", "progress", NULL};
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    opt_table(L, 1, known);
    receive_spec(L);
    opt_text(L, 1, "slot", NULL);
    luaL_argcheck(L, *opt_text(L, 1, "directory", ""), 1, "options.directory: path expected");
    if (opt_function(L, 1, "progress"))
        lua_pop(L, 1);
    lua_getfield(L, 1, "conn");
    luaL_argcheck(L, lua_istable(L, -1), 1, "options.conn: table expected");
    struct task *t;
    int rc = task_enter(L, "receive_wal", &t);
    if (rc)
        return rc;
    struct params params;
    struct err e;
    params_read(L, 1, 2, &params);
    struct receive *r = receive_new(L, t->rt, &params);
    r->looking_up = params_need_lookup(&r->params);
    const char *host = params_get(&r->params, "host");
    rc = r->looking_up ? resolve_start(t->rt, host, receive_found, r, &e) : receive_start(r, &e);
    if (rc == 0)
        return task_wait(L, t, &r->wait, -1, 0);
    receive_free(r);
    return error_return(L, &e);
}

void
receive_functions(lua_State *L)
{
    lua_pushcfunction(L, l_receive_wal);
    lua_setfield(L, -2, "receive_wal");
}
