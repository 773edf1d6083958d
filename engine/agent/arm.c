/*
 * arm and release: making a primary's commits wait for its mirror, and not wait any more. The order of
 * steps, and why each is there, is SAFETY.md's rule 1.
 */
#include "moonrise/base/err.h"
#include "moonrise/base/str.h"
#include "moonrise/loop/loop.h"
#include "moonrise/pg/version.h"
#include "order.h"
#include "release_full.h"
#include "sql.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CANARY_MS      1000 /* until one must be seen waiting, and until it must have returned */
#define NUDGE_EVERY_MS 10
#define POLL_MS        2
#define NAMED_MS       2000
#define READ_BACK_MS   1000
#define LAG_DEFAULT    (1 << 20)
#define RELEASE_MS     60000
#define WALSENDERS_MS  1000
#define FULL_MS        5000
#define SQL_TOO_MANY   "53300"

static const struct statement canary = {
    .sql = "select pg_logical_emit_message(true, 'moonrise', 'canary')"};
static const char nudge_sql[] = "select pg_logical_emit_message(true, 'moonrise', 'nudge')";

/* The two sessions of an arming: one that commands, one whose commits are watched. */
struct armer {
    struct order *o;
    struct db *db;
    struct db *canary;
    bool sent; /* a canary is on its way */
    const char *name, *slot;
    int64_t max_lag_bytes;
};

static int64_t
sql_deadline(void)
{
    return clock_ms() + SQL_TIMEOUT_MS;
}

/* Names go into synchronous_standby_names unquoted, so they are plain identifiers. */
static int
check_name(const char *name, struct err *e)
{
    if (strncmp(name, "mr_", 3) != 0 || strlen(name) > 60)
        return err_set(e, ERR_ARGUMENT, "'%.64s' is no name of a mirror", name);
    for (const char *p = name; *p; p++) {
        if (!islower((unsigned char)*p) && !isdigit((unsigned char)*p) && *p != '_')
            return err_set(e, ERR_ARGUMENT, "'%.64s' is no name of a mirror", name);
    }
    return 0;
}

static int
open_sessions(struct armer *a, struct err *e)
{
    int rc = sql_open(&a->db, a->o, true, e);
    return rc < 0 ? rc : sql_open(&a->canary, a->o, false, e);
}

/* A canary that still waits keeps its backend after we are gone: it is ended here. */
static void
close_sessions(struct armer *a)
{
    if (a->sent && a->db) {
        char pid[12];
        snprintf(pid, sizeof pid, "%d", db_backend_pid(a->canary));
        sql_end_backend(a->db, a->o, pid, clock_ms() + 1000, NULL);
    }
    db_close(a->canary);
    db_close(a->db);
}

static int
set_names(struct armer *a, const char *names, struct err *e)
{
    return sql_alter_system(a->db, "synchronous_standby_names", names, sql_deadline(), e);
}

/* synchronous_commit as this server gives it to everybody. What this database or role was given, a higher one
 * too, says nothing about others. */
static int
server_level(char **out, struct armer *a, struct err *e)
{
    static const char level[] =
        "select reset_val from pg_settings where name = 'synchronous_commit'"
        " and source not in ('database', 'user', 'database user')";
    int rc = sql_text(out, a->canary, level, sql_deadline(), e);
    if (rc < 0 || *out)
        return rc;
    rc = sql_server_setting(out, a->o, "synchronous_commit", e);
    if (rc == 0 || rc == ERR_CANCELLED || rc == ERR_TIMEOUT)
        return rc;
    struct err why = e ? *e : (struct err){0};
    err_set(e, ERR_REFUSED,
            "the server's synchronous_commit is not to be seen, since this database or role has its"
            " own: %.300s",
            why.message);
    return err_hint(e, "let %s connect for replication over the socket, or reset its own value",
                    a->o->user ? a->o->user : "its superuser");
}

/* Whether this server's commits can wait at all. */
static int
check_primary(struct armer *a, struct err *e)
{
    bool in_recovery;
    char *commit = NULL;
    int rc = sql_bool(&in_recovery, a->db, "select pg_is_in_recovery()", sql_deadline(), e);
    if (rc == 0 && in_recovery)
        rc = err_set(e, ERR_REFUSED, "%s is in recovery: no primary", a->o->datadir);
    /* The canary's session was opened without a wish of its own: it has what everybody gets. */
    if (rc == 0)
        rc = server_level(&commit, a, e);
    if (rc == 0 && strcmp(commit, "on") != 0 && strcmp(commit, "remote_apply") != 0) {
        err_set(e, ERR_REFUSED, "synchronous_commit is %s: commits do not wait", commit);
        rc = err_hint(e, "set it to on for the whole server");
    }
    if (rc == 0)
        rc = sql_run(a->canary, "set synchronous_commit = on", sql_deadline(), e);
    free(commit);
    return rc < 0 ? rc : 0;
}

/* One look at the walsender that holds the mirror's slot. */
struct sender {
    bool named;    /* it streams under the name */
    bool sync;     /* and the server counts it as synchronous */
    bool borrowed; /* somebody else has the name, too */
    int64_t lag_bytes;
    char state[64];
};

static int
look_at_sender(struct sender *out, struct armer *a, struct err *e)
{
    static const char sql[] =
        "select s.state = 'streaming' and s.application_name = $2, s.sync_state = 'sync',"
        " exists (select from pg_stat_replication x where x.application_name = $2"
        " and x.pid is distinct from s.pid), pg_wal_lsn_diff(pg_current_wal_flush_lsn(), "
        "s.flush_lsn)::int8,"
        " coalesce(s.application_name || ' ' || s.state, 'nobody') from pg_replication_slots r "
        "left join pg_stat_replication s on s.pid = r.active_pid where r.slot_name = $1";
    const char *params[] = {a->slot, a->name};
    struct statement st = {.sql = sql, .nparams = 2, .params = params};
    const struct result *r;
    *out = (struct sender){.lag_bytes = INT64_MAX};
    int rc = db_query(a->db, &r, &st, sql_deadline(), e);
    if (rc < 0)
        return rc;
    if (result_rows(r) == 0)
        return err_set(e, ERR_NOTFOUND, "there is no slot %s", a->slot);
    const char *named = result_get(r, 0, 0), *sync = result_get(r, 0, 1);
    const char *lag = result_get(r, 0, 3);
    out->named = named && *named == 't';
    out->sync = sync && *sync == 't';
    out->borrowed = *result_get(r, 0, 2) == 't';
    if (lag)
        out->lag_bytes = strtoll(lag, NULL, 10);
    snprintf(out->state, sizeof out->state, "%s", result_get(r, 0, 4));
    return 0;
}

/* The mirror streams under its name from its slot, nobody else has the name, and what it lags is small
 * enough for writers to wait for, and not growing. */
static int
check_mirror(struct armer *a, struct err *e)
{
    struct sender s, again;
    int64_t until = clock_ms() + NAMED_MS;
    for (;;) {
        int rc = look_at_sender(&s, a, e);
        if (rc < 0)
            return rc;
        if (s.named && !s.borrowed)
            break;
        if (s.borrowed && clock_ms() > until)
            return err_set(e, ERR_REFUSED, "another receiver bears the name %s", a->name);
        if (clock_ms() > until)
            return err_set(e, ERR_REFUSED, "slot %s is held by %s, not by %s streaming", a->slot,
                           s.state, a->name);
        if ((rc = order_pause(a->o, POLL_MS, e)) < 0)
            return rc;
    }
    int rc = order_pause(a->o, NUDGE_EVERY_MS, e);
    if (rc == 0)
        rc = look_at_sender(&again, a, e);
    if (rc < 0)
        return rc;
    if (again.lag_bytes > a->max_lag_bytes ||
        (again.lag_bytes > a->max_lag_bytes / 2 && again.lag_bytes > s.lag_bytes))
        return err_set(e, ERR_REFUSED, "%s is %" PRId64 " bytes behind%s", a->name, again.lag_bytes,
                       again.lag_bytes > s.lag_bytes ? ", and falling back" : "");
    return 0;
}

/* Whether the canary's backend waits for a mirror. */
static int
canary_waits(bool *waits, struct armer *a, struct err *e)
{
    char sql[128];
    snprintf(sql, sizeof sql, "select wait_event = 'SyncRep' from pg_stat_activity where pid = %d",
             db_backend_pid(a->canary));
    return sql_bool(waits, a->db, sql, sql_deadline(), e);
}

/* Commits canaries until one is seen waiting: the only proof that commits wait. The first ones may pass,
 * while the checkpointer has not reread the setting. */
static int
await_waiting(struct armer *a, struct err *e)
{
    int64_t until = clock_ms() + CANARY_MS;
    bool waits = false;
    while (!waits) {
        int rc = 0;
        if (!a->sent && (rc = db_send(a->canary, &canary, e)) < 0)
            return rc;
        a->sent = true;
        rc = db_poll(a->canary, NULL, POLL_MS, e);
        if (rc < 0)
            return rc;
        a->sent = rc == 0;
        rc = a->sent ? canary_waits(&waits, a, e) : 0;
        if (rc < 0)
            return rc;
        if (!waits && clock_ms() > until) {
            err_set(e, ERR_TIMEOUT, "no commit was seen waiting within %d ms", CANARY_MS);
            return err_hint(e, "a checkpoint holds the setting back; it is tried again later");
        }
    }
    return 0;
}

/* 1 once the canary has returned, 0 while it waits. */
static int
poll_canary(struct armer *a, struct err *e)
{
    int rc = db_poll(a->canary, NULL, NUDGE_EVERY_MS, e);
    if (rc == 1)
        a->sent = false;
    if (rc == 0 && order_cancelled(a->o))
        return err_set(e, ERR_CANCELLED, "cancelled");
    return rc;
}

/* The walsender has the new name at once, but lets waiters go only at the mirror's next reply: traffic
 * that does not wait itself brings that about. */
static int
await_returned(struct armer *a, struct err *e)
{
    int64_t until = clock_ms() + CANARY_MS;
    for (;;) {
        int rc = sql_run(a->db, nudge_sql, sql_deadline(), e);
        if (rc == 0)
            rc = poll_canary(a, e);
        if (rc != 0)
            return rc < 0 ? rc : 0;
        if (clock_ms() > until)
            return err_set(e, ERR_TIMEOUT, "%s did not acknowledge a commit within %d ms", a->name,
                           CANARY_MS);
    }
}

/* Reads back: the setting as this server's sessions see it, and the mirror as the one it names. Each session
 * rereads the settings for itself, this one perhaps after those that the canary has needed. */
static int
read_back(struct armer *a, struct err *e)
{
    int64_t until = clock_ms() + READ_BACK_MS;
    for (;;) {
        struct sender s;
        char *names;
        int rc = sql_text(&names, a->db, "show synchronous_standby_names", sql_deadline(), e);
        if (rc < 0)
            return rc;
        bool read = strcmp(names, a->name) == 0;
        rc = look_at_sender(&s, a, e);
        bool holds = rc == 0 && read && s.named && s.sync && !s.borrowed;
        if (rc == 0 && !holds)
            rc = err_set(e, ERR_REFUSED, "synchronous_standby_names is '%s' and slot %s held by %s",
                         names, a->slot, s.state);
        free(names);
        if (holds || read || rc != ERR_REFUSED || clock_ms() > until)
            return rc;
        rc = order_pause(a->o, POLL_MS, e);
        if (rc < 0)
            return rc;
    }
}

/* The way back from a half-done arming. A session of its own, that ends the arming's two and heeds no
 * cancel: those may be broken, or their call given up, and everybody would go on waiting for nobody. */
static int
disarm(const struct armer *a, struct err *e)
{
    struct agent_call call = *a->o->call;
    struct order o = *a->o;
    struct db *db;
    call.cancel = NULL;
    o.call = &call;
    int rc = sql_open(&db, &o, true, e);
    if (rc == 0)
        rc = sql_alter_system(db, "synchronous_standby_names", "", sql_deadline(), e);
    db_close(db);
    return rc;
}

/* Until no walsender counts as synchronous: then only the checkpointer's flag can make commits wait, and
 * a canary tells how that stands. *left says that one still does. */
static int
await_asynchronous(bool *left, struct armer *a, struct err *e)
{
    int64_t until = clock_ms() + WALSENDERS_MS;
    int rc = 0;
    *left = true;
    while (rc == 0 && *left && clock_ms() < until) {
        rc = sql_bool(left, a->db,
                      "select exists (select from pg_stat_replication where sync_state <> 'async')",
                      sql_deadline(), e);
        if (rc == 0 && *left)
            rc = order_pause(a->o, POLL_MS, e);
    }
    return rc;
}

/* Commits one canary and waits until it returns. */
static int
await_released(struct armer *a, int64_t deadline_ms, struct err *e)
{
    int rc = db_send(a->canary, &canary, e);
    a->sent = rc == 0;
    while (rc == 0) {
        rc = poll_canary(a, e);
        if (rc != 0)
            return rc < 0 ? rc : 0;
        if (clock_ms() > deadline_ms) {
            err_set(e, ERR_TIMEOUT, "commits still wait for a mirror");
            return err_hint(
                e, "the checkpointer is inside a checkpoint and rereads settings after it");
        }
    }
    return rc;
}

/* Nobody waits, and a commit was seen passing: what waits from here on does so for what is set from here on.
 *
 * A release that has timed out leaves the checkpointer's flag on. A canary that waits then would prove
 * nothing: the checkpointer may have read the empty setting already and clear the flag only afterwards, and
 * until it rereads, after a whole checkpoint perhaps, commits would pass while the pair is recorded as in
 * sync. The canary comes after the walsenders have let the old name go, or one of them could be what lets it
 * pass. Nothing is promised to anybody here: a pair is armed only while it is recorded as not in sync. */
static int
begin_released(struct armer *a, struct err *e)
{
    bool left = false;
    int rc = set_names(a, "", e);
    if (rc == 0)
        rc = await_asynchronous(&left, a, e);
    if (rc == 0 && left)
        rc = err_set(e, ERR_TIMEOUT, "a walsender still goes by an earlier name");
    return rc < 0 ? rc : await_released(a, clock_ms() + CANARY_MS, e);
}

static int
arm(struct armer *a, struct err *e)
{
    char nobody[48];
    snprintf(nobody, sizeof nobody, "mr_nobody_%" PRIu64, a->o->claim.epoch);
    int rc = begin_released(a, e);
    if (rc < 0)
        return rc;
    rc = set_names(a, nobody, e);
    if (rc == 0)
        rc = await_waiting(a, e);
    if (rc == 0)
        rc = set_names(a, a->name, e); /* never through empty: that would let everybody go */
    if (rc == 0)
        rc = await_returned(a, e);
    if (rc == 0)
        rc = read_back(a, e);
    if (rc < 0) {
        struct err why = {0};
        if (disarm(a, &why) < 0)
            err_wrap(e, "release failed too (%.200s)", why.message);
    }
    return rc;
}

/* Where the mirror must have come to: everything that may have been acknowledged without it is before. */
static int
tell_armed(struct armer *a, int64_t began, struct err *e)
{
    char lsn_text[LSN_TEXT_BYTES];
    lsn_t lsn;
    message_set_int(a->o->result, "waited_ms", clock_ms() - began);
    int rc = sql_lsn(&lsn, a->db, "select pg_current_wal_insert_lsn()", sql_deadline(), e);
    if (rc == 0)
        rc = sql_run(a->db, nudge_sql, sql_deadline(), e); /* flushes, and sends, all before it */
    int version = db_server_version(a->db);
    message_set_text(a->o->result, "insert_lsn", lsn_format(lsn_text, lsn));
    message_set_text(a->o->result, "name", a->name);
    message_set_int(a->o->result, "server_version", version);
    message_set_bool(a->o->result, "waits_from_start", version_sync_from_start(version));
    return rc;
}

int
op_arm(struct order *o, struct err *e)
{
    struct armer a = {.o = o, .max_lag_bytes = message_int(o->args, "max_lag_bytes", LAG_DEFAULT)};
    int rc = message_need_text(o->args, "name", &a.name, e);
    if (rc == 0)
        rc = message_need_text(o->args, "slot", &a.slot, e);
    if (rc == 0)
        rc = check_name(a.name, e);
    if (rc == 0)
        rc = open_sessions(&a, e);
    if (rc == 0)
        rc = check_primary(&a, e);
    if (rc == 0)
        rc = check_mirror(&a, e);
    int64_t began = clock_ms();
    if (rc == 0)
        rc = arm(&a, e);
    if (rc == 0)
        rc = tell_armed(&a, began, e);
    close_sessions(&a);
    return rc;
}

/* The sessions of a release. A primary that lets nobody in is released by its file first, which gives those
 * that waited their connections back. They end those of other orders, so only the newest may open them: the
 * lock is held for each try, and let go in between. */
static int
open_to_release(struct armer *a, struct err *e)
{
    struct order *o = a->o;
    int64_t deadline = clock_ms() + FULL_MS;
    int rc = open_sessions(a, e);
    if (rc == 0 || strcmp(e->sqlstate, SQL_TOO_MANY) != 0)
        return rc;
    rc = release_full(o, e);
    while (rc == 0) {
        close_sessions(a);
        *a = (struct armer){.o = o};
        rc = order_relock(o, e);
        if (rc < 0)
            return rc;
        rc = open_sessions(a, e);
        if (rc == 0 || strcmp(e->sqlstate, SQL_TOO_MANY) != 0 || clock_ms() > deadline)
            return rc;
        order_unlock(o);
        rc = order_pause(o, POLL_MS * 10, e);
    }
    return rc;
}

int
op_release(struct order *o, struct err *e)
{
    struct armer a = {.o = o};
    bool in_recovery = false, stuck;
    int64_t began = clock_ms();
    int rc = open_to_release(&a, e);
    if (rc == 0)
        rc = sql_bool(&in_recovery, a.db, "select pg_is_in_recovery()", sql_deadline(), e);
    if (rc == 0 && in_recovery)
        rc = err_set(e, ERR_REFUSED, "%s is in recovery: no primary", o->datadir);
    if (rc == 0)
        rc = sql_run(a.canary, "set synchronous_commit = on", sql_deadline(), e);
    if (rc == 0)
        rc = set_names(&a, "", e);
    if (rc == 0) {
        order_unlock(o);                        /* a checkpoint may hold it back for long */
        rc = await_asynchronous(&stuck, &a, e); /* one that is stuck keeps nobody waiting for it */
    }
    if (rc == 0)
        rc = await_released(&a, order_deadline(o, "wait_ms", RELEASE_MS), e);
    close_sessions(&a);
    if (rc < 0)
        return rc;
    message_set_bool(o->result, "released", true);
    message_set_int(o->result, "waited_ms", clock_ms() - began);
    return 0;
}
