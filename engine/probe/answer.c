#include "answer.h"

#include "moonrise/base/err.h"
#include "moonrise/conn/result.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    ANSWER_IN_RECOVERY,
    ANSWER_TIMELINE,
    ANSWER_SYSID,
    ANSWER_LSN,
    ANSWER_REPLAY,
    ANSWER_PAUSED,
    ANSWER_RECEIVER,
    ANSWER_SYNC_NAMES,
    ANSWER_SYNC_COMMIT,
    ANSWER_WAITING,
    ANSWER_PEER_NAME,
    ANSWER_PEER_STATE,
    ANSWER_PEER_SYNC,
    ANSWER_PEER_SENT,
    ANSWER_PEER_FLUSH,
    ANSWER_PEER_REPLAY,
    ANSWER_COLUMNS,
};

/* pg_control's timeline is that of the last checkpoint, which may be minutes behind a promotion. What a
 * standby has replayed without having received it came from its own disk, so the greater of both is
 * what it has durably. */
const char answer_sql[] =
    "select i.r, "
    "case when i.r then (select received_tli from pg_stat_wal_receiver)"
    " else ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int end, "
    "(select system_identifier from pg_control_system()), "
    "case when i.r then greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())"
    " else pg_current_wal_flush_lsn() end, "
    "case when i.r then pg_last_wal_replay_lsn() end, "
    "case when i.r then pg_is_wal_replay_paused() end, "
    "exists (select from pg_stat_wal_receiver where status = 'streaming'), "
    "current_setting('synchronous_standby_names'), "
    "current_setting('synchronous_commit'), "
    "(select count(*) from pg_stat_activity where wait_event = 'SyncRep'), "
    "w.application_name, w.state, w.sync_state, w.sent_lsn, w.flush_lsn, w.replay_lsn "
    "from (select pg_is_in_recovery() as r) i "
    "left join pg_replication_slots s on s.slot_name = $1 "
    "left join pg_stat_replication w on w.pid = s.active_pid";

static void
answer_text(char *buf, size_t size, const struct result *r, int column)
{
    const char *text = result_get(r, 0, column);
    snprintf(buf, size, "%s", text ? text : "");
}

static bool
answer_bool(const struct result *r, int column)
{
    const char *text = result_get(r, 0, column);
    return text && text[0] == 't';
}

static lsn_t
answer_lsn(const struct result *r, int column)
{
    const char *text = result_get(r, 0, column);
    lsn_t lsn;
    return text && lsn_parse(&lsn, text, NULL) == 0 ? lsn : 0;
}

static long
answer_int(const struct result *r, int column)
{
    const char *text = result_get(r, 0, column);
    return text ? strtol(text, NULL, 10) : 0;
}

bool
answer_read(struct observation *o, const struct result *r)
{
    if (result_rows(r) != 1 || result_columns(r) != ANSWER_COLUMNS)
        return false;
    o->in_recovery = answer_bool(r, ANSWER_IN_RECOVERY);
    o->timeline = (uint32_t)answer_int(r, ANSWER_TIMELINE);
    answer_text(o->sysid, sizeof(o->sysid), r, ANSWER_SYSID);
    o->lsn = answer_lsn(r, ANSWER_LSN);
    o->replay_lsn = answer_lsn(r, ANSWER_REPLAY);
    o->replay_paused = answer_bool(r, ANSWER_PAUSED);
    o->receiver = answer_bool(r, ANSWER_RECEIVER);
    answer_text(o->sync_names, sizeof(o->sync_names), r, ANSWER_SYNC_NAMES);
    answer_text(o->sync_commit, sizeof(o->sync_commit), r, ANSWER_SYNC_COMMIT);
    o->waiting = (int)answer_int(r, ANSWER_WAITING);
    o->peer = result_get(r, 0, ANSWER_PEER_STATE) != NULL;
    answer_text(o->peer_name, sizeof(o->peer_name), r, ANSWER_PEER_NAME);
    answer_text(o->peer_state, sizeof(o->peer_state), r, ANSWER_PEER_STATE);
    answer_text(o->peer_sync, sizeof(o->peer_sync), r, ANSWER_PEER_SYNC);
    o->peer_sent_lsn = answer_lsn(r, ANSWER_PEER_SENT);
    o->peer_flush_lsn = answer_lsn(r, ANSWER_PEER_FLUSH);
    o->peer_replay_lsn = answer_lsn(r, ANSWER_PEER_REPLAY);
    return true;
}
