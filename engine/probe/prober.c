#include "moonrise/probe/prober.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"
#include "moonrise/conn/result.h"
#include "moonrise/loop/loop.h"
#include "moonrise/loop/timer.h"

#include "evidence.h"
#include "question.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PROBE_AGAIN_MS 100 /* a session that breaks at once is not opened again faster than this */

/* A session to an instance and the question that is under way on it. */
struct asking {
    struct target *t;
    struct conn *conn; /* NULL while there is no session */
    bool fresh;        /* nothing was answered on it yet */
    bool own_level;    /* its synchronous_commit is its database's or role's own */
    int64_t began_ms;  /* the question, or the attempt to get a session for it */
};

struct target {
    struct target *next;
    struct prober *p;
    int dbid;
    struct conn_params params;
    char *sysid, *peer_slot;    /* or NULL */
    bool standby;               /* it should be in recovery */
    bool named;                 /* its host is a name, that `find` looks up */
    struct conn_params address; /* what was found last, keywords NULL before that */
    uint64_t ticket;            /* of the look-up that is under way, 0 is none */
    int64_t find_ms;            /* when that began */
    struct timer *tick;
    struct asking standing; /* kept open, asked every interval */
    struct asking extra;    /* opened beside it now and then, for one question */
    struct conn *walsender; /* while it is asked for `level`, else NULL */
    char level[24]; /* the server's synchronous_commit where own_level hides it, "" not told yet */
    int64_t level_ms;    /* when it was last asked for, 0 never */
    bool wanted;         /* a fresh session was wished for while something was under way */
    int64_t fresh_ms;    /* when a session was last asked for */
    int64_t answered_ms; /* when the standing session last answered */
};

struct prober {
    struct loop *l;
    struct prober_spec spec;
    struct target *first;
    uint64_t tickets; /* given out so far */
};

static void probe_begin(struct asking *a);

/* Tells an outcome. The callback may drop the target: nothing of it is touched afterwards. */
static void
probe_tell(struct prober *p, const struct observation *o)
{
    p->spec.observed(p->spec.arg, o);
}

static void
probe_outcome(struct observation *o, const struct asking *a)
{
    int64_t now = clock_ms();
    *o = (struct observation){
        .dbid = a->t->dbid, .fresh = a->fresh, .at_ms = now, .took_ms = now - a->began_ms};
}

static void
probe_fill_error(struct observation *o, enum evidence ev, const struct err *e)
{
    o->evidence = ev;
    memcpy(o->sqlstate, e->sqlstate, sizeof(o->sqlstate));
    snprintf(o->message, sizeof(o->message), "%.*s", (int)sizeof(o->message) - 1, e->message);
}

static const char *
target_host(const struct target *t)
{
    for (size_t i = 0; t->params.keywords[i]; i++)
        if (strcmp(t->params.keywords[i], "host") == 0)
            return t->params.values[i];
    return "";
}

static void
probe_unresolved(struct target *t)
{
    struct observation o = {.dbid = t->dbid, .fresh = true, .evidence = EVIDENCE_UNRESOLVED};
    o.at_ms = clock_ms();
    o.took_ms = o.at_ms - t->find_ms;
    snprintf(o.message, sizeof(o.message), "no address is known here for the name %s",
             target_host(t));
    probe_tell(t->p, &o);
}

/* Has the name looked up, again where that was done before: the host may have moved. What was found last
 * holds until something else is found. */
static void
target_find(struct target *t)
{
    struct prober *p = t->p;
    if (!t->named || t->ticket)
        return;
    t->find_ms = clock_ms();
    t->ticket = ++p->tickets;
    if (!p->spec.find(p->spec.arg, t->ticket, &t->params))
        t->ticket = 0;
}

static const struct conn_params *
target_place(const struct target *t)
{
    return t->named ? &t->address : &t->params;
}

static void
probe_close(struct asking *a)
{
    conn_free(a->conn);
    a->conn = NULL;
}

static bool
probe_is_busy(const struct asking *a)
{
    return a->conn && conn_is_busy(a->conn);
}

/* Something has ended: what was wished for meanwhile can begin, once the callbacks are through. */
static void
probe_ended(struct target *t)
{
    if (t->wanted)
        timer_again(t->tick, 0, t->p->spec.interval_ms);
}

/* Opens the standing session again at once after it broke, unless that was just done. */
static void
probe_reopen(struct target *t)
{
    if (clock_ms() - t->fresh_ms >= PROBE_AGAIN_MS)
        probe_begin(&t->standing);
    else
        timer_again(t->tick, PROBE_AGAIN_MS, t->p->spec.interval_ms);
}

/* Whether the standing session was answering while a fresh one did not come about, which shows that it is
 * the postmaster that does not answer. A socket whose queue is full (of what was tried before) fails at
 * once: then the last answers count. */
static bool
probe_still_answers(const struct target *t, int64_t took_ms)
{
    const struct prober_spec *spec = &t->p->spec;
    int64_t slack_ms = took_ms < spec->timeout_ms ? 2 * spec->interval_ms : 0;
    return t->standing.conn && conn_is_open(t->standing.conn) &&
           t->answered_ms >= t->extra.began_ms - slack_ms;
}

static void
probe_failed(struct asking *a, const struct err *e)
{
    struct target *t = a->t;
    struct prober *p = t->p;
    struct observation o;
    bool kept = a == &t->standing && !a->fresh;
    bool alive = conn_is_open(a->conn);
    probe_outcome(&o, a);
    enum evidence ev = evidence_of(e);
    if (kept && !alive && ev != EVIDENCE_TIMEOUT && ev != EVIDENCE_SHORTAGE)
        ev = EVIDENCE_RESET;
    if (a == &t->extra && ev == EVIDENCE_TIMEOUT && probe_still_answers(t, o.took_ms))
        ev = EVIDENCE_NO_NEW_SESSION;
    probe_fill_error(&o, ev, e);
    if (a == &t->extra || !alive)
        probe_close(a);
    /* Until one comes about again, a fresh session is tried every interval. */
    if (a == &t->extra)
        t->fresh_ms = 0;
    if (!o.sqlstate[0])
        target_find(t);
    if (ev == EVIDENCE_RESET && kept)
        probe_reopen(t);
    probe_ended(t);
    probe_tell(p, &o);
}

static void
probe_lost(void *arg, const struct err *e)
{
    struct asking *a = arg;
    a->began_ms = clock_ms();
    probe_failed(a, e);
}

/* What was told before stays when nothing is told now, unless we are not let in at all. */
static void
level_told(void *arg, const struct result *r, const struct err *e)
{
    struct target *t = arg;
    const char *level = e || result_rows(r) != 1 ? NULL : result_get(r, 0, 0);
    if (e && (evidence_of(e) == EVIDENCE_AUTHENTICATION || strcmp(e->sqlstate, "42501") == 0))
        level = "unknown";
    if (level)
        snprintf(t->level, sizeof(t->level), "%s", level);
    conn_free(t->walsender);
    t->walsender = NULL;
}

static void
level_opened(void *arg, const struct err *e)
{
    struct target *t = arg;
    struct statement st = {.sql = "SHOW synchronous_commit"}; /* a walsender knows no "show" */
    if (e)
        level_told(t, NULL, e);
    else
        conn_query(t->walsender, &st, t->p->spec.timeout_ms, level_told, t);
}

/* Asks for the server's own level. Only a walsender tells: what a database or role was given does not reach
 * a session of physical replication (InitPostgres in postinit.c). It is not kept: there are few of them. */
static void
level_ask(struct target *t)
{
    size_t n = 0;
    int64_t now = clock_ms();
    if (t->walsender || (t->level_ms && now - t->level_ms < t->p->spec.fresh_ms))
        return;
    const struct conn_params *place = target_place(t);
    while (place->keywords[n])
        n++;
    const char **keywords = mem_zalloc((n + 2) * sizeof(*keywords));
    const char **values = mem_zalloc((n + 2) * sizeof(*values));
    memcpy(keywords, place->keywords, n * sizeof(*keywords));
    memcpy(values, place->values, n * sizeof(*values));
    keywords[n] = "replication";
    values[n] = "true";
    struct conn_spec spec = {.params = {keywords, values},
                             .timeout_ms = t->p->spec.timeout_ms,
                             .done = level_opened,
                             .arg = t};
    t->level_ms = now;
    conn_open(&t->walsender, t->p->l, &spec);
    free(keywords);
    free(values);
}

static void
probe_answered(void *arg, const struct result *r, const struct err *e)
{
    struct asking *a = arg;
    struct target *t = a->t;
    struct prober *p = t->p;
    struct observation o;
    struct err bad;
    if (e) {
        probe_failed(a, e);
        return;
    }
    probe_outcome(&o, a);
    if (question_read(&o, &a->own_level, r, &bad) != 0) {
        probe_fill_error(&o, EVIDENCE_SQLSTATE, &bad);
    } else if (t->sysid && strcmp(t->sysid, o.sysid) != 0) {
        o.evidence = EVIDENCE_WRONG_SYSTEM;
        snprintf(o.message, sizeof(o.message), "system identifier %s where %s was expected",
                 o.sysid, t->sysid);
    }
    if (a->own_level) {
        memcpy(o.sync_commit, t->level, sizeof(o.sync_commit));
        level_ask(t);
    }
    a->fresh = false;
    /* The name may lead elsewhere by now: the next session is opened there, so none is kept here. */
    bool astray = o.evidence == EVIDENCE_WRONG_SYSTEM ||
                  (o.evidence == EVIDENCE_NONE && o.in_recovery != t->standby);
    if (astray)
        target_find(t);
    if (a == &t->extra || (astray && t->named))
        probe_close(a);
    else
        t->answered_ms = o.at_ms;
    probe_ended(t);
    probe_tell(p, &o);
}

static void
probe_ask(struct asking *a)
{
    struct target *t = a->t;
    const char *params[] = {t->peer_slot, a->fresh ? "t" : "f"};
    struct statement st = {.sql = question_sql, .nparams = 2, .params = params};
    int64_t left = a->began_ms + t->p->spec.timeout_ms - clock_ms();
    /* Nothing is left only after this process was away: see timer_deadline. */
    conn_query(a->conn, &st, left > 0 ? left : t->p->spec.timeout_ms, probe_answered, a);
}

static void
probe_opened(void *arg, const struct err *e)
{
    struct asking *a = arg;
    if (e) {
        probe_failed(a, e);
        return;
    }
    if (a == &a->t->standing)
        conn_on_lost(a->conn, probe_lost, a);
    probe_ask(a);
}

/* Asks, on a session that is there or on a new one; not while something is under way. */
static void
probe_begin(struct asking *a)
{
    struct target *t = a->t;
    if (probe_is_busy(a))
        return;
    a->began_ms = clock_ms();
    if (a->conn && conn_is_open(a->conn)) {
        probe_ask(a);
        return;
    }
    probe_close(a);
    a->fresh = true;
    a->own_level = false;
    t->fresh_ms = a->began_ms;
    if (t->named && !t->address.keywords) {
        target_find(t);
        return;
    }
    struct conn_spec spec = {.params = *target_place(t),
                             .timeout_ms = t->p->spec.timeout_ms,
                             .done = probe_opened,
                             .arg = a};
    conn_open(&a->conn, t->p->l, &spec);
}

/* A fresh session beside the standing one, which is asked at the same time: its answer tells a hung
 * postmaster from a hung server. Without a standing session that one is the fresh one. */
static void
probe_freshly(struct target *t)
{
    t->wanted = t->wanted && (probe_is_busy(&t->standing) || probe_is_busy(&t->extra));
    probe_begin(&t->standing);
    if (!t->standing.fresh)
        probe_begin(&t->extra);
}

static void
probe_tick(void *arg)
{
    struct target *t = arg;
    /* A resolver that says nothing is no better than one that knows nothing. */
    if (t->ticket && !t->address.keywords && clock_ms() - t->find_ms >= t->p->spec.timeout_ms)
        probe_unresolved(t);
    else if (t->wanted || clock_ms() - t->fresh_ms >= t->p->spec.fresh_ms)
        probe_freshly(t);
    else
        probe_begin(&t->standing);
}

static void
target_forget(struct target *t)
{
    conn_params_free(&t->params);
    free(t->sysid);
    free(t->peer_slot);
}

static void
target_learn(struct target *t, const struct target_spec *spec)
{
    conn_params_copy(&t->params, &spec->params);
    t->standby = spec->standby;
    t->named = spec->named && t->p->spec.find;
    t->sysid = spec->sysid ? mem_strdup(spec->sysid) : NULL;
    t->peer_slot = spec->peer_slot ? mem_strdup(spec->peer_slot) : NULL;
}

static bool
target_same_text(const char *a, const char *b)
{
    return (!a || !b) ? a == b : strcmp(a, b) == 0;
}

static bool
target_same_place(const struct conn_params *a, const struct conn_params *b)
{
    size_t i = 0;
    for (; a->keywords[i] && b->keywords[i]; i++)
        if (strcmp(a->keywords[i], b->keywords[i]) != 0 ||
            !target_same_text(a->values[i], b->values[i]))
            return false;
    return a->keywords[i] == b->keywords[i];
}

static struct target **
prober_find(struct prober *p, int dbid)
{
    struct target **at = &p->first;
    while (*at && (*at)->dbid != dbid)
        at = &(*at)->next;
    return at;
}

void
prober_new(struct prober **out, struct loop *l, const struct prober_spec *spec)
{
    struct prober *p = mem_zalloc(sizeof(*p));
    p->l = l;
    p->spec = *spec;
    *out = p;
}

void
prober_set(struct prober *p, const struct target_spec *spec)
{
    struct target *t = *prober_find(p, spec->dbid);
    if (t && !target_same_place(&t->params, &spec->params)) {
        prober_drop(p, spec->dbid);
        t = NULL;
    }
    if (t) {
        struct target old = *t;
        target_learn(t, spec);
        target_forget(&old);
        return;
    }
    t = mem_zalloc(sizeof(*t));
    t->next = p->first;
    p->first = t;
    t->p = p;
    t->dbid = spec->dbid;
    t->standing.t = t->extra.t = t;
    target_learn(t, spec);
    timer_every(&t->tick, p->l, p->spec.interval_ms, probe_tick, t);
    probe_begin(&t->standing);
}

void
prober_drop(struct prober *p, int dbid)
{
    struct target **at = prober_find(p, dbid);
    struct target *t = *at;
    if (!t)
        return;
    *at = t->next;
    timer_free(t->tick);
    probe_close(&t->standing);
    probe_close(&t->extra);
    conn_free(t->walsender);
    conn_params_free(&t->address);
    target_forget(t);
    free(t);
}

void
prober_found(struct prober *p, uint64_t ticket, const struct conn_params *params)
{
    struct target *t = p->first;
    while (t && t->ticket != ticket)
        t = t->next;
    if (!t)
        return;
    bool first = !t->address.keywords;
    t->ticket = 0;
    if (params) {
        conn_params_free(&t->address);
        conn_params_copy(&t->address, params);
    }
    if (first && params)
        probe_begin(&t->standing);
    else if (first)
        probe_unresolved(t);
}

void
prober_now(struct prober *p, int dbid)
{
    struct target *t = *prober_find(p, dbid);
    if (!t)
        return;
    t->wanted = true;
    probe_freshly(t);
}

void
prober_free(struct prober *p)
{
    if (!p)
        return;
    while (p->first)
        prober_drop(p, p->first->dbid);
    free(p);
}
