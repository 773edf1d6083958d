#include "question.h"

#include "moonrise/base/err.h"
#include "moonrise/conn/result.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum column {
    ASK_IN_RECOVERY,
    ASK_SYSID,
    ASK_TIMELINE,
    ASK_LSN,
    ASK_REPLAY_LSN,
    ASK_REPLAY_PAUSED,
    ASK_RECEIVER,
    ASK_RECEIVED_MS,
    ASK_SYNC_NAMES,
    ASK_SYNC_COMMIT,
    ASK_OWN_LEVEL,
    ASK_WAITING,
    ASK_PEER_PID,
    ASK_PEER_NAME,
    ASK_PEER_STATE,
    ASK_PEER_SYNC,
    ASK_PEER_SENT,
    ASK_PEER_FLUSH,
    ASK_PEER_REPLAY,
    ASK_COLUMNS
};

/* The functions below the views are asked, which join and sort more than is needed here. A function that
 * one of the two roles refuses stands in a CASE, which evaluates only the branch it takes.
 *
 * The timeline of a primary is that of its current WAL file: its control file has it only after the
 * first checkpoint that follows a promotion. A mirror's is told by its receiver, and once that is gone
 * (its primary died) by the names of the WAL files it has received: its control file, too, learns of a
 * change of roles only later, and until then the mirror would seem to follow another history. A mirror's
 * received position falls back when its receiver
 * starts again, at the beginning of a segment: what it has replayed it has received.
 *
 * A level of commits that this database or role was given, a higher one too, says nothing about the others'.
 * A session gets it once and for all at its start: where it came from is asked only then ($2), since all
 * settings are read for that, which takes as long as the rest. */
const char question_sql[] =
    "with me as materialized (select pg_catalog.pg_is_in_recovery() as standby),"
    " receiver as (select received_tli, status, last_msg_receipt_time"
    "  from pg_catalog.pg_stat_get_wal_receiver() where pid is not null),"
    " peer as (select w.pid, a.application_name, w.state, w.sync_state, w.sent_lsn, w.flush_lsn,"
    "   w.replay_lsn from pg_catalog.pg_get_replication_slots() s"
    "  join pg_catalog.pg_stat_get_wal_senders() w on w.pid = s.active_pid,"
    "  lateral pg_catalog.pg_stat_get_activity(w.pid) a where s.slot_name = $1::name)"
    "select me.standby,"
    " (pg_catalog.pg_control_system()).system_identifier,"
    " case when me.standby then greatest((select received_tli from receiver),"
    "   case when not exists (select from receiver) then"
    "    (select max(('x' || substr(name, 1, 8))::bit(32)::int) from pg_catalog.pg_ls_waldir()"
    "     where name ~ '^[0-9A-F]{24}$') end,"
    "   (pg_catalog.pg_control_checkpoint()).timeline_id,"
    "   (pg_catalog.pg_control_recovery()).min_recovery_end_timeline)"
    "  else ('x' || substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))"
    "   ::bit(32)::int end,"
    " case when me.standby then greatest(pg_catalog.pg_last_wal_receive_lsn(),"
    "   pg_catalog.pg_last_wal_replay_lsn()) else pg_catalog.pg_current_wal_flush_lsn() end,"
    " pg_catalog.pg_last_wal_replay_lsn(),"
    " case when me.standby then pg_catalog.pg_is_wal_replay_paused() end,"
    " exists (select from receiver where status = 'streaming'),"
    " (select (extract(epoch from pg_catalog.clock_timestamp() - last_msg_receipt_time)"
    "   * 1000)::bigint from receiver where status = 'streaming'),"
    " pg_catalog.current_setting('synchronous_standby_names'),"
    " pg_catalog.current_setting('synchronous_commit'),"
    " case when $2::bool then (select source in ('database', 'user', 'database user')"
    "   from pg_catalog.pg_show_all_settings() where name = 'synchronous_commit') end,"
    " (select count(*) from pg_catalog.pg_stat_get_activity(null) where wait_event = 'SyncRep'),"
    " peer.pid, peer.application_name, peer.state, peer.sync_state, peer.sent_lsn, peer.flush_lsn,"
    " peer.replay_lsn"
    " from me left join peer on true";

static void
question_text(char *out, size_t size, const struct result *r, enum column column)
{
    const char *text = result_get(r, 0, column);
    snprintf(out, size, "%s", text ? text : "");
}

static bool
question_true(const struct result *r, enum column column)
{
    const char *text = result_get(r, 0, column);
    return text && text[0] == 't';
}

static long long
question_number(const struct result *r, enum column column)
{
    const char *text = result_get(r, 0, column);
    return text ? strtoll(text, NULL, 10) : 0;
}

static int
question_lsn(lsn_t *out, const struct result *r, enum column column, struct err *e)
{
    const char *text = result_get(r, 0, column);
    *out = 0;
    return text ? lsn_parse(out, text, e) : 0;
}

static int
question_peer(struct observation *o, const struct result *r, struct err *e)
{
    o->peer = result_get(r, 0, ASK_PEER_PID) != NULL;
    question_text(o->peer_name, sizeof(o->peer_name), r, ASK_PEER_NAME);
    question_text(o->peer_state, sizeof(o->peer_state), r, ASK_PEER_STATE);
    question_text(o->peer_sync, sizeof(o->peer_sync), r, ASK_PEER_SYNC);
    int rc = question_lsn(&o->peer_sent_lsn, r, ASK_PEER_SENT, e);
    if (rc == 0)
        rc = question_lsn(&o->peer_flush_lsn, r, ASK_PEER_FLUSH, e);
    if (rc == 0)
        rc = question_lsn(&o->peer_replay_lsn, r, ASK_PEER_REPLAY, e);
    return rc;
}

int
question_read(struct observation *o, bool *own_level, const struct result *r, struct err *e)
{
    if (result_rows(r) != 1 || result_columns(r) != ASK_COLUMNS)
        return err_set(e, ERR_PROTOCOL, "a probe's answer has %d rows of %d columns",
                       result_rows(r), result_columns(r));
    o->in_recovery = question_true(r, ASK_IN_RECOVERY);
    question_text(o->sysid, sizeof(o->sysid), r, ASK_SYSID);
    o->timeline = (uint32_t)question_number(r, ASK_TIMELINE);
    o->replay_paused = question_true(r, ASK_REPLAY_PAUSED);
    o->receiver = question_true(r, ASK_RECEIVER);
    o->received_ms = result_get(r, 0, ASK_RECEIVED_MS) ? question_number(r, ASK_RECEIVED_MS) : -1;
    question_text(o->sync_names, sizeof(o->sync_names), r, ASK_SYNC_NAMES);
    question_text(o->sync_commit, sizeof(o->sync_commit), r, ASK_SYNC_COMMIT);
    if (result_get(r, 0, ASK_OWN_LEVEL))
        *own_level = question_true(r, ASK_OWN_LEVEL);
    o->waiting = (int)question_number(r, ASK_WAITING);
    int rc = question_lsn(&o->lsn, r, ASK_LSN, e);
    if (rc == 0 && o->in_recovery)
        rc = question_lsn(&o->replay_lsn, r, ASK_REPLAY_LSN, e);
    return rc != 0 ? rc : question_peer(o, r, e);
}
