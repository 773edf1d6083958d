/*
 * history: whether a checkpoint of another instance is one of this instance's, too (SAFETY.md, rule 9).
 *
 * A mirror's pg_control holds a copy of its primary's last checkpoint that it has replayed. A server that
 * has run as a primary since, on whatever timeline, begins with a checkpoint of its own. So the copy is
 * compared with the record at that position in the WAL that the primary has: redo, timelines, time and
 * counters. Files are read, no server is asked; it need not run.
 */
#include "aside.h"
#include "inspect.h"
#include "moonrise/base/err.h"
#include "moonrise/base/str.h"
#include "moonrise/pg/timeline.h"
#include "moonrise/wal/record.h"
#include "order.h"

#include <stdlib.h>

/* The record at `lsn` in the files of the newest timeline that has that segment: a timeline begins with a
 * copy of what its segment held before. */
static int
read_newest(struct wal_record *out, const struct control *c, const char *wal_dir, lsn_t lsn,
            struct err *e)
{
    struct timeline_history h;
    uint32_t newest;
    int rc = timeline_newest(&newest, wal_dir, e);
    if (rc == 0)
        rc = timeline_read(&h, wal_dir, newest, e);
    if (rc < 0)
        return rc;
    struct wal_source source = {
        .system_identifier = c->system_identifier,
        .page_bytes = c->wal_block_bytes,
        .segment_bytes = c->wal_segment_bytes,
    };
    wal_source_dir(&source, wal_dir);
    rc = ERR_NOTFOUND;
    for (size_t i = h.count; i > 0 && rc == ERR_NOTFOUND; i--) {
        source.timeline = h.spans[i - 1].timeline;
        rc = wal_record_read(out, &source, lsn, e);
    }
    timeline_history_done(&h);
    return rc;
}

int
op_history(struct order *o, struct err *e)
{
    struct control c;
    struct wal_record record;
    uint8_t body[CONTROL_CHECKPOINT_BYTES];
    const char *text;
    bool aside;
    lsn_t lsn;
    int rc = message_need_text(o->args, "checkpoint", &text, e);
    if (rc == 0)
        rc = lsn_parse(&lsn, text, e);
    if (rc == 0)
        rc = aside_read(&c, &aside, o->datadir, e);
    if (rc < 0)
        return rc;
    char *wal_dir = order_path(o, "pg_wal");
    rc = read_newest(&record, &c, wal_dir, lsn, e);
    free(wal_dir);
    if (rc < 0 && rc != ERR_NOTFOUND && rc != ERR_FORMAT)
        return rc;
    if (rc == 0 && wal_checkpoint_body(body, &record)) {
        char sum[HASH_TEXT_BYTES];
        checkpoint_sum(sum, body);
        message_set_text(o->result, "checkpoint_sum", sum);
    }
    /* From its own checkpoint's redo on a server has all its WAL: what is not there was never written. */
    message_set_bool(o->result, "known", rc != ERR_NOTFOUND || lsn >= c.redo_lsn);
    return 0;
}
