/*
 * Barring what was ordered before: bar. Who does not know which orders are on their way to an instance (a
 * catalog that lost its last transitions does not) makes sure of it before the last one that came is judged
 * by. That one stays on record. The timeline is told with it: a promotion that came before is in there, too.
 */
#include "moonrise/pg/timeline.h"
#include "order.h"

#include <stdlib.h>

int
op_bar(struct order *o, struct err *e)
{
    uint32_t newest;
    char *wal = order_path(o, "pg_wal");
    o->last.barred = o->claim.epoch;
    int rc = epoch_write(&o->last, o->datadir, e);
    if (rc == 0 && timeline_newest(&newest, wal, NULL) == 0)
        message_set_int(o->result, "newest_timeline", newest);
    free(wal);
    if (rc < 0)
        return rc;
    message_set_int(o->result, "epoch", (int64_t)o->last.epoch);
    message_set_text(o->result, "order", o->last.order);
    message_set_bool(o->result, "marked", o->last.marked);
    message_set_bool(o->result, "standby_signal", file_exists(o->datadir, "standby.signal"));
    return 0;
}
