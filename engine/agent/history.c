/*
 * history: whether a checkpoint of another instance is one of this instance's, too (SAFETY.md, rule 9).
 *
 * A mirror's pg_control holds a copy of its primary's last checkpoint that it has replayed. A server that
 * has run as a primary since, on whatever timeline, begins with a checkpoint of its own. So the copy is
 * compared with the record at that position in the WAL that the primary has: redo, timelines, time and
 * counters. Files are read, no server is asked; it need not run.
 *
 * A primary that was put back from an older copy of itself lacks the end of what its mirror has. That its
 * WAL ends before it is told apart from WAL of its own at that place; so is the epoch that it is bound by.
 */
#include "aside.h"
#include "epoch.h"
#include "inspect.h"
#include "moonrise/base/err.h"
#include "moonrise/base/str.h"
#include "moonrise/pg/timeline.h"
#include "moonrise/wal/record.h"
#include "order.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* WAL files, of whichever timeline has the segment. */
struct wal_files {
    struct timeline_history history;
    struct wal_source source;
};

static int
open_files(struct wal_files *w, const struct control *c, const char *wal_dir, struct err *e)
{
    uint32_t newest;
    int rc = timeline_newest(&newest, wal_dir, e);
    if (rc == 0)
        rc = timeline_read(&w->history, wal_dir, newest, e);
    w->source = (struct wal_source){
        .system_identifier = c->system_identifier,
        .page_bytes = c->wal_block_bytes,
        .segment_bytes = c->wal_segment_bytes,
    };
    wal_source_dir(&w->source, wal_dir);
    return rc;
}

/* The record at `lsn` in the files of the newest timeline that has that segment, which *w reads from then
 * on: a timeline begins with a copy of what its segment held before. */
static int
read_newest(struct wal_record *out, struct wal_files *w, lsn_t lsn, struct err *e)
{
    int rc = ERR_NOTFOUND;
    for (size_t i = w->history.count; i > 0 && rc == ERR_NOTFOUND; i--) {
        w->source.timeline = w->history.spans[i - 1].timeline;
        rc = wal_record_read(out, &w->source, lsn, e);
    }
    return rc;
}

/* Whether the WAL ends before a position that another server has flushed. What ends with a page may be a
 * part of a record, or the rest of a segment after a switch, which is not written: it proves nothing. */
static int
ends_before(bool *out, struct wal_files *w, lsn_t position, struct err *e)
{
    struct wal_record ignored;
    *out = false;
    if (position % w->source.page_bytes == 0)
        return 0;
    read_newest(&ignored, w, position, NULL);
    return wal_ends_before(out, &w->source, position - 1, e);
}

/* Whether the WAL ends before a checkpoint that is not there, or before `position`. From its own checkpoint's
 * redo on a server has all its WAL: what is not there was never written. That one is read after the WAL,
 * some of which may have been removed until then. */
static int
tell_end(struct order *o, struct wal_files *w, lsn_t checkpoint, lsn_t position, struct err *e)
{
    struct control c;
    bool aside, before = false;
    lsn_t lsn = checkpoint;
    int rc = checkpoint ? ends_before(&before, w, checkpoint + 1, e) : 0;
    if (rc == 0 && !before) {
        lsn = position;
        rc = ends_before(&before, w, position, e);
    }
    if (rc == 0)
        rc = aside_read(&c, &aside, o->datadir, e);
    if (rc == 0)
        message_set_bool(o->result, "ends_before", before && lsn >= c.redo_lsn);
    return rc;
}

static void
tell_epoch(struct order *o, const struct control *c)
{
    struct epoch ep;
    char sysid[24];
    if (epoch_read(&ep, o->datadir, NULL) < 0 || !ep.present)
        return;
    snprintf(sysid, sizeof sysid, "%" PRIu64, c->system_identifier);
    epoch_judge(&ep, sysid, 0);
    if (ep.valid)
        message_set_int(o->result, "epoch", (int64_t)ep.epoch);
}

static int
tell_wal(struct order *o, const struct control *c, lsn_t lsn, lsn_t position, struct err *e)
{
    struct wal_files w = {0};
    struct wal_record record;
    uint8_t body[CONTROL_CHECKPOINT_BYTES];
    char *wal_dir = order_path(o, "pg_wal");
    int rc = open_files(&w, c, wal_dir, e);
    if (rc == 0) {
        int found = read_newest(&record, &w, lsn, e);
        if (found == 0 && wal_checkpoint_body(body, &record)) {
            char sum[HASH_TEXT_BYTES];
            checkpoint_sum(sum, body);
            message_set_text(o->result, "checkpoint_sum", sum);
        }
        message_set_bool(o->result, "known", found != ERR_NOTFOUND || lsn >= c->redo_lsn);
        rc = found == 0 || found == ERR_NOTFOUND || found == ERR_FORMAT
                 ? tell_end(o, &w, found == 0 ? 0 : lsn, position, e)
                 : found;
    }
    timeline_history_done(&w.history);
    free(wal_dir);
    return rc;
}

int
op_history(struct order *o, struct err *e)
{
    struct control c;
    const char *text;
    bool aside;
    lsn_t lsn, position;
    int rc = message_need_text(o->args, "checkpoint", &text, e);
    if (rc == 0)
        rc = lsn_parse(&lsn, text, e);
    if (rc == 0)
        rc = lsn_parse(&position, message_text(o->args, "position", "0/0"), e);
    if (rc == 0)
        rc = aside_read(&c, &aside, o->datadir, e);
    if (rc < 0)
        return rc;
    tell_epoch(o, &c);
    return tell_wal(o, &c, lsn, position, e);
}
