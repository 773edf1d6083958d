/*
 * Orders on a mirror and on slots: promote, name, follow, slot, checkpoint.
 */
#include "conninfo.h"
#include "moonrise/base/err.h"
#include "moonrise/base/path.h"
#include "moonrise/base/str.h"
#include "moonrise/loop/loop.h"
#include "moonrise/pg/timeline.h"
#include "order.h"
#include "process.h"
#include "settings.h"
#include "slot.h"
#include "sql.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define POLL_MS      2
#define NAME_MS      5000
#define PROMOTE_MS   60000
#define TIMELINE_SQL "select substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8)"

static int64_t
sql_deadline(void)
{
    return clock_ms() + SQL_TIMEOUT_MS;
}

/* The mirror answers for itself, immediately before it is promoted. */
static int
check_mirror(struct order *o, struct db *db, lsn_t flush_lsn, struct err *e)
{
    static const char sql[] =
        "select pg_is_wal_replay_paused(), current_setting('synchronous_standby_names'),"
        " greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()),"
        " (select system_identifier from pg_control_system())";
    const struct result *r;
    char want[LSN_TEXT_BYTES];
    lsn_t has = 0;
    int rc = db_query(db, &r, &(struct statement){.sql = sql}, sql_deadline(), e);
    if (rc < 0)
        return rc;
    const char *paused = result_get(r, 0, 0), *names = result_get(r, 0, 1);
    const char *received = result_get(r, 0, 2), *sysid = result_get(r, 0, 3);
    if (received && (rc = lsn_parse(&has, received, e)) < 0)
        return rc;
    if (paused && *paused == 't')
        return err_set(e, ERR_REFUSED, "replay of %s is paused", o->datadir);
    if (names && names[0])
        return err_set(e, ERR_REFUSED,
                       "%s has synchronous_standby_names '%.64s': its writes would hang",
                       o->datadir, names);
    if (strcmp(sysid ? sysid : "", o->last.sysid) != 0)
        return err_set(e, ERR_REFUSED, "%s is of system %s", o->datadir, sysid ? sysid : "unknown");
    if (has < flush_lsn)
        return err_set(e, ERR_REFUSED,
                       "%s has received up to %s, the primary was seen flushed there at %s",
                       o->datadir, received ? received : "nothing", lsn_format(want, flush_lsn));
    return 0;
}

/* pg_promote(wait) looks every 100 ms only; this looks all the time. */
static int
await_promoted(const struct order *o, struct db *db, struct err *e)
{
    int64_t deadline = order_deadline(o, "wait_ms", PROMOTE_MS);
    bool in_recovery = true;
    for (;;) {
        int rc = sql_bool(&in_recovery, db, "select pg_is_in_recovery()", sql_deadline(), e);
        if (rc < 0 || !in_recovery)
            return rc;
        if (clock_ms() > deadline)
            return err_set(e, ERR_TIMEOUT, "%s has not left recovery yet", o->datadir);
        if ((rc = order_pause(o, POLL_MS, e)) < 0)
            return rc;
    }
}

/* Where the new timeline began, from its history file. */
static int
tell_switch(struct order *o, struct db *db, lsn_t flush_lsn, struct err *e)
{
    struct timeline_history h;
    char *text, *wal = order_path(o, "pg_wal");
    lsn_t at = 0;
    int rc = sql_text(&text, db, TIMELINE_SQL, sql_deadline(), e);
    uint32_t timeline = rc == 0 && text ? (uint32_t)strtoul(text, NULL, 16) : 0;
    if (rc == 0 && (rc = timeline_read(&h, wal, timeline, e)) == 0) {
        at = h.count > 0 ? h.spans[h.count - 1].begin : 0;
        timeline_history_done(&h);
    }
    free(text);
    free(wal);
    if (rc < 0)
        return rc;
    char lsn[LSN_TEXT_BYTES], want[LSN_TEXT_BYTES];
    message_set_int(o->result, "timeline", timeline);
    message_set_text(o->result, "switch_lsn", lsn_format(lsn, at));
    /* What was received may end inside of a record that nobody can have seen committed. It is too late to
     * refuse, so that is told. */
    if (at < flush_lsn)
        message_set_text(o->result, "received_lsn", lsn_format(want, flush_lsn));
    return 0;
}

/* The slot comes before the promotion, so that it reserves from the last restart point on; what cannot be
 * promoted gets it taken away again. */
static int
promote(struct order *o, struct db *db, lsn_t flush_lsn, struct err *e)
{
    const char *slot = message_text(o->args, "slot", NULL);
    bool made = false, asked = false;
    int rc = check_mirror(o, db, flush_lsn, e);
    if (rc == 0 && slot)
        rc = slot_create(&made, db, slot, e);
    if (rc == 0)
        rc = sql_bool(&asked, db, "select pg_promote(false)", sql_deadline(), e);
    if (rc == 0 && !asked)
        rc = err_set(e, ERR_REFUSED, "%s did not take the promotion", o->datadir);
    if (rc < 0) {
        if (made)
            slot_drop(db, o, slot, NULL);
        return rc;
    }
    order_unlock(o); /* replaying what is left may take long */
    return await_promoted(o, db, e);
}

static void
drop_slots(struct order *o, struct db *db)
{
    for (size_t i = 0; i < message_count(o->args, "slots_drop"); i++) {
        const char *name = message_text_item(o->args, "slots_drop", i);
        struct err why = {0};
        if (name && slot_drop(db, o, name, &why) < 0)
            message_append_text(o->result, "slots_left", name);
    }
}

int
op_promote(struct order *o, struct err *e)
{
    const char *flush;
    lsn_t flush_lsn;
    struct db *db = NULL;
    bool in_recovery = false;
    int rc = message_need_text(o->args, "flush_lsn", &flush, e);
    if (rc == 0)
        rc = lsn_parse(&flush_lsn, flush, e);
    if (rc == 0 && o->last.marked)
        rc = err_set(e, ERR_REFUSED, "%s is marked", o->datadir);
    if (rc == 0)
        rc = sql_open(&db, o, true, e);
    if (rc == 0)
        rc = sql_bool(&in_recovery, db, "select pg_is_in_recovery()", sql_deadline(), e);
    message_set_bool(o->result, "already", !in_recovery);
    if (rc == 0 && in_recovery)
        rc = promote(o, db, flush_lsn, e);
    if (rc == 0)
        rc = tell_switch(o, db, flush_lsn, e);
    if (rc == 0)
        drop_slots(o, db);
    db_close(db);
    return rc;
}

/* Sets primary_conninfo to the text with the name in it; *changed says whether it was another one. */
static int
set_name(bool *changed, struct db *db, const char *name, struct err *e)
{
    char *now;
    struct str next = STR_INIT;
    *changed = false;
    int rc = sql_text(&now, db, "show primary_conninfo", sql_deadline(), e);
    if (rc == 0)
        rc = conninfo_set(&next, now ? now : "", "application_name", name, e);
    if (rc == 0 && strcmp(next.data, now ? now : "") != 0) {
        *changed = true;
        rc = sql_alter_system(db, "primary_conninfo", next.data, sql_deadline(), e);
    }
    str_free(&next);
    free(now);
    return rc;
}

/* Whether the receiver streams under the name by the deadline. */
static int
await_named(bool *streams, const struct order *o, struct db *db, const char *name, struct err *e)
{
    static const char sql[] =
        "select status = 'streaming' and conninfo || ' ' like '%application\\_name=' || $1 || ' %' "
        "from pg_stat_wal_receiver";
    int64_t deadline = order_deadline(o, "wait_ms", NAME_MS);
    *streams = false;
    while (!*streams && clock_ms() < deadline) {
        const struct result *r;
        int rc = sql_with(&r, db, sql, name, e);
        if (rc < 0)
            return rc;
        const char *yes = result_rows(r) > 0 ? result_get(r, 0, 0) : NULL;
        *streams = yes && *yes == 't';
        if (!*streams && (rc = order_pause(o, POLL_MS, e)) < 0)
            return rc;
    }
    return 0;
}

int
op_name(struct order *o, struct err *e)
{
    const char *name;
    struct db *db = NULL;
    bool in_recovery, changed = false, streams = false;
    int64_t began = clock_ms();
    int rc = message_need_text(o->args, "name", &name, e);
    if (rc == 0)
        rc = sql_open(&db, o, true, e);
    if (rc == 0)
        rc = sql_bool(&in_recovery, db, "select pg_is_in_recovery()", sql_deadline(), e);
    if (rc == 0 && !in_recovery)
        rc = err_set(e, ERR_REFUSED, "%s is no mirror", o->datadir);
    if (rc == 0)
        rc = set_name(&changed, db, name, e);
    order_unlock(o);
    if (rc == 0)
        rc = await_named(&streams, o, db, name, e);
    db_close(db);
    if (rc < 0)
        return rc;
    message_set_bool(o->result, "changed", changed);
    message_set_bool(o->result, "streaming", streams);
    message_set_int(o->result, "ms", clock_ms() - began);
    return 0;
}

static int
follow_running(struct order *o, const char *conninfo, const char *slot, struct err *e)
{
    struct db *db;
    bool in_recovery;
    int rc = sql_open(&db, o, true, e);
    if (rc < 0)
        return rc;
    rc = sql_bool(&in_recovery, db, "select pg_is_in_recovery()", sql_deadline(), e);
    if (rc == 0 && !in_recovery)
        rc = err_set(e, ERR_REFUSED, "%s is no mirror", o->datadir);
    if (rc == 0)
        rc = sql_alter_system(db, "primary_slot_name", slot, sql_deadline(), e);
    if (rc == 0)
        rc = sql_alter_system(db, "primary_conninfo", conninfo, sql_deadline(), e);
    db_close(db);
    return rc;
}

static int
follow_stopped(struct order *o, const char *conninfo, const char *slot, struct err *e)
{
    struct settings s;
    int rc = settings_read(&s, o->datadir, e);
    if (rc < 0)
        return rc;
    rc = conf_set(&s.auto_, "primary_conninfo", conninfo, e);
    if (rc == 0)
        rc = conf_set(&s.auto_, "primary_slot_name", slot, e);
    if (rc == 0)
        rc = settings_write(&s, o->datadir, e);
    settings_done(&s);
    return rc;
}

int
op_follow(struct order *o, struct err *e)
{
    const char *conninfo, *slot;
    int rc = message_need_text(o->args, "conninfo", &conninfo, e);
    if (rc == 0)
        rc = message_need_text(o->args, "slot", &slot, e);
    if (rc < 0)
        return rc;
    /* That nobody answers is no proof: files are written only beside a server that is stopped. */
    rc = process_prove_stopped(o->datadir, e);
    if (rc == 0)
        rc = follow_stopped(o, conninfo, slot, e);
    else if (rc == ERR_RUNNING)
        rc = follow_running(o, conninfo, slot, e);
    if (rc == 0)
        message_set_bool(o->result, "follows", true);
    return rc;
}

int
op_slot(struct order *o, struct err *e)
{
    const char *name;
    bool create = message_bool(o->args, "create", true), made = false;
    struct db *db = NULL;
    int rc = message_need_text(o->args, "name", &name, e);
    if (rc == 0)
        rc = sql_open(&db, o, true, e);
    if (rc == 0 && create)
        rc = slot_create(&made, db, name, e);
    else if (rc == 0)
        rc = slot_drop(db, o, name, e);
    db_close(db);
    if (rc < 0)
        return rc;
    message_set_bool(o->result, create ? "made" : "dropped", create ? made : true);
    return 0;
}

int
op_checkpoint(struct order *o, struct err *e)
{
    struct db *db;
    int64_t began = clock_ms(), deadline = order_deadline(o, "wait_ms", 600000);
    int rc = sql_open(&db, o, true, e);
    if (rc < 0)
        return rc;
    order_unlock(o);
    rc = sql_run(db, "set statement_timeout = 0", sql_deadline(), e);
    if (rc == 0)
        rc = sql_run(db, "checkpoint", deadline, e);
    db_close(db);
    if (rc == 0)
        message_set_int(o->result, "ms", clock_ms() - began);
    return rc;
}
