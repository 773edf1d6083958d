#include "moonrise/agent/agent.h"

#include "maker.h"
#include "moonrise/base/err.h"
#include "moonrise/base/str.h"
#include "moonrise/conn/conn.h"
#include "moonrise/loop/job.h"
#include "moonrise/loop/loop.h"
#include "moonrise/loop/timer.h"
#include "moonrise/wire/session.h"
#include "order.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

/* How long work that was told to stop may take after the session's end: longer than undoing an arming does,
 * which may have to connect first and otherwise leaves every commit waiting for nobody. */
#define END_GRACE_MS 10000

static const struct operation {
    const char *name;
    int (*run)(struct order *o, struct err *e);
    unsigned flags;
} operations[] = {
    {"hello", op_hello, ORDER_HOST},
    {"tls", op_tls, ORDER_HOST},
    {"programs", op_programs, ORDER_HOST},
    {"address", op_address, ORDER_HOST},
    {"passfile", op_passfile, ORDER_HOST},
    {"record_read", op_record_read, ORDER_HOST},
    {"record_write", op_record_write, ORDER_HOST},
    {"inspect", op_inspect, ORDER_QUESTION},
    {"disk", op_disk, ORDER_QUESTION},
    {"history", op_history, ORDER_QUESTION},
    {"read", op_read, ORDER_QUESTION},
    {"reload", op_reload, ORDER_QUESTION},
    {"try", op_try, ORDER_QUESTION},
    {"configuration", op_configuration, ORDER_QUESTION},
    {"survey", op_survey, ORDER_QUESTION},
    {"makedirs", op_makedirs, ORDER_QUESTION},
    {"describe", op_describe, ORDER_QUESTION},
    {"sql", op_sql, ORDER_QUESTION},
    {"remove_datadir", op_remove_datadir, ORDER_ORDER | ORDER_CREATES | ORDER_REMOVES},
    {"initdb", op_initdb, ORDER_ORDER | ORDER_CREATES | ORDER_MAKES},
    {"adopt", op_adopt, ORDER_ORDER | ORDER_CREATES},
    {"disown", op_disown, ORDER_ORDER | ORDER_CREATES | ORDER_DISOWNS},
    {"configure", op_configure, ORDER_ORDER},
    {"start", op_start, ORDER_ORDER},
    {"stop", op_stop, ORDER_ORDER},
    {"fence", op_fence, ORDER_ORDER},
    {"mark", op_mark, ORDER_ORDER},
    {"bar", op_bar, ORDER_ORDER | ORDER_BARS},
    {"name", op_name, ORDER_ORDER},
    {"arm", op_arm, ORDER_ORDER},
    {"release", op_release, ORDER_ORDER},
    {"promote", op_promote, ORDER_ORDER},
    {"follow", op_follow, ORDER_ORDER},
    {"slot", op_slot, ORDER_ORDER},
    {"checkpoint", op_checkpoint, ORDER_ORDER},
    {"recover", op_recover, ORDER_ORDER | ORDER_CREATES | ORDER_MAKES},
};

static const struct operation *
find_operation(const char *name)
{
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++) {
        if (strcmp(operations[i].name, name) == 0)
            return &operations[i];
    }
    return NULL;
}

int
agent_call(struct message **out, const struct agent_call *call, struct err *e)
{
    const struct operation *operation = find_operation(call->op);
    struct order o;
    *out = NULL;
    if (!operation)
        return err_set(e, ERR_PROTOCOL, "this agent knows no operation '%.32s'", call->op);
    int rc = order_init(&o, call, operation->flags, e);
    if (rc == 0 && (operation->flags & ORDER_MAKES))
        rc = order_make_dir(&o, e);
    if (rc == 0 && (operation->flags & ORDER_ORDER))
        rc = order_begin(&o, operation->flags, e);
    if (rc == 0 && (operation->flags & ORDER_MAKES))
        rc = maker_note(&o, e);
    if (rc == 0)
        rc = operation->run(&o, e);
    if (rc == 0) {
        *out = o.result;
        o.result = NULL;
    }
    order_done(&o);
    return rc;
}

/* The agent of one session, and its open calls. */
struct agent {
    struct loop *loop;
    struct session *session; /* NULL once it is over */
    struct work *works;
    struct timer *grace;
    int exit_code;
};

/* One open call: its job's input, then its result. */
struct work {
    struct agent *agent;
    struct work *next;
    uint32_t id;
    char *op;
    struct message *args;
    int64_t epoch;
    bool given_up; /* its caller does not wait any more */
    struct job *job;
    struct job_self *self; /* on the job's thread */
    struct message *result;
    struct err error;
    int rc;
};

static void
work_free(struct work *w)
{
    free(w->op);
    message_free(w->args);
    message_free(w->result);
    free(w);
}

/* On the job's thread: progress goes to the loop as text, which belongs to nobody else. */
static void
work_progress(void *arg, const struct message *m)
{
    struct work *w = arg;
    job_post(w->self, message_format(m));
}

static void
work_run(struct job_self *self, void *arg)
{
    struct work *w = arg;
    w->self = self;
    struct agent_call call = {.op = w->op,
                              .args = w->args,
                              .cancel = &self->cancel,
                              .progress = work_progress,
                              .progress_arg = w};
    w->rc = agent_call(&w->result, &call, &w->error);
}

static void
work_said(void *arg, void *text)
{
    struct work *w = arg;
    struct message *m;
    if (w->agent->session && message_parse(&m, text, strlen(text), NULL) == 0) {
        session_progress(w->agent->session, w->id, m);
        message_free(m);
    }
    free(text);
}

static void
work_done(void *arg)
{
    struct work *w = arg;
    struct agent *a = w->agent;
    struct work **at = &a->works;
    while (*at != w)
        at = &(*at)->next;
    *at = w->next;
    if (a->session && w->rc == 0)
        session_reply(a->session, w->id, w->result);
    else if (a->session)
        session_fail(a->session, w->id, &w->error);
    work_free(w);
    if (!a->session && !a->works)
        loop_stop(a->loop);
}

/* An order of a newer epoch for the same instance ends older ones that are still being carried out here:
 * they would only hold it up, and must not finish after it. */
static void
supersede(struct agent *a, const struct work *newer)
{
    const char *datadir = message_text(newer->args, "datadir", "");
    for (struct work *w = a->works; w; w = w->next) {
        if (w != newer && w->epoch && w->epoch < newer->epoch &&
            strcmp(message_text(w->args, "datadir", ""), datadir) == 0)
            job_cancel(w->job);
    }
}

/* Whether the same was asked of the same directory, and its caller has given up waiting: a disk that hangs
 * holds that call's thread. One more would be held beside it, until there is none left for a fence. Orders are
 * never refused for it. */
static bool
hangs(const struct agent *a, const char *op, const struct message *args)
{
    const struct operation *operation = find_operation(op);
    const char *datadir = message_text(args, "datadir", "");
    if (!operation || (operation->flags & ORDER_ORDER))
        return false;
    for (const struct work *w = a->works; w; w = w->next) {
        if (w->given_up && strcmp(w->op, op) == 0 &&
            strcmp(message_text(w->args, "datadir", ""), datadir) == 0)
            return true;
    }
    return false;
}

static int
copy_message(struct message **out, const struct message *m, struct err *e)
{
    char *text = message_format(m);
    int rc = message_parse(out, text, strlen(text), e);
    free(text);
    return rc;
}

static void
on_call(void *arg, struct session *s, uint32_t id, const char *op, const struct message *args)
{
    struct agent *a = arg;
    struct err why = {0};
    struct work *w = mem_zalloc(sizeof *w);
    w->agent = a;
    w->id = id;
    w->op = mem_strdup(op);
    w->epoch = message_int(args, "epoch", 0);
    int rc = copy_message(&w->args, args, &why);
    if (rc == 0 && hangs(a, op, args)) {
        err_set(&why, ERR_BUSY, "an earlier %s has not come to an end yet", op);
        rc = err_hint(&why, "see whether the disk of %s hangs",
                      message_text(args, "datadir", "this host"));
    }
    if (rc == 0) {
        struct job_spec spec = {.run = work_run, .done = work_done, .said = work_said, .arg = w};
        w->next = a->works;
        a->works = w;
        supersede(a, w);
        rc = job_start(&w->job, a->loop, &spec, &why);
        if (rc < 0)
            a->works = w->next;
    }
    if (rc < 0) {
        session_fail(s, id, &why);
        work_free(w);
    }
}

static void
on_cancel(void *arg, struct session *s, uint32_t id)
{
    struct agent *a = arg;
    (void)s;
    for (struct work *w = a->works; w; w = w->next) {
        if (w->id == id) {
            w->given_up = true;
            job_cancel(w->job);
        }
    }
}

static void
on_grace(void *arg)
{
    struct agent *a = arg;
    a->exit_code = 1;
    loop_stop(a->loop);
}

/* The session is over, and with it all work: whoever does not stop in time goes with the process. */
static void
on_end(void *arg, const struct err *why)
{
    struct agent *a = arg;
    (void)why;
    a->session = NULL;
    for (struct work *w = a->works; w; w = w->next)
        job_cancel(w->job);
    if (a->works)
        timer_start(&a->grace, a->loop, END_GRACE_MS, on_grace, a);
    else
        loop_stop(a->loop);
}

int
agent_main(void)
{
    struct agent a = {0};
    struct err why = {0};
    struct session_events events = {
        .on_call = on_call, .on_cancel = on_cancel, .on_end = on_end, .arg = &a};
    signal(SIGPIPE, SIG_IGN);
    conn_clear_environment();
    if (loop_new(&a.loop, &why) < 0)
        return 1;
    struct session *session;
    if (session_serve(&session, a.loop, &events, &why) < 0) {
        loop_free(a.loop);
        return 1;
    }
    a.session = session;
    loop_run(a.loop);
    /* With work that hangs left behind, freeing would wait for it; the process's end does not. */
    if (a.works)
        return a.exit_code;
    timer_free(a.grace);
    session_free(session);
    loop_free(a.loop);
    return a.exit_code;
}
