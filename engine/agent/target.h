/*
 * The target's side of a recovery: what may be written at all, what keeps others out of it meanwhile, and
 * what makes a finished copy an instance of its own. From a job's thread, under the epoch lock.
 */
#ifndef AGENT_TARGET_H
#define AGENT_TARGET_H

#include "moonrise/patch/patch.h"
#include "order.h"

#include <stdbool.h>

struct err;
struct source;

struct target {
    struct order *o;
    struct source *source;
    enum patch_type type;
    struct patch_tablespace *spaces; /* texts owned */
    int space_count;
    bool locked;     /* postmaster.pid is ours, negated */
    bool own_system; /* it says that it is of the source's system */
    bool flushed;    /* its server was shut down, and nothing was written since: its disk has all */
    /* A full recovery that was interrupted goes on: the blocks that it has written are compared, not
     * written again. Whatever they hold, what differs is written. */
    bool resumes;
};

/* Refuses what must not be written: SAFETY.md, rule 5. ERR_REFUSED, ERR_RUNNING, ERR_STALE. */
int target_check(struct target *t, struct err *e);

/* Which tablespace goes where: args.tablespaces (oid, target), and by themselves those inside of the data
 * directory, those that an earlier recovery has sent elsewhere, and all of a source that sees directories
 * of its own. After target_check. ERR_REFUSED when one of the source's is left. */
int target_spaces(struct target *t, struct err *e);

/* From here on it cannot be started: moonrise.patch, pg_control aside, postmaster.pid ours. When that fails
 * the target is left as it was. */
int target_take(struct target *t, struct err *e);

/* Writes how far the copy is beside the note, for whoever inspects the target meanwhile. Not flushed, and
 * nothing depends on it. */
void target_tell(const struct target *t, const char *stage, struct patch_progress *p);

/* Label, settings, history files: all but pg_control. */
int target_dress(struct target *t, struct err *e);

/* After pg_control is in place: an instance of its own, with its epoch. */
int target_adopt(struct target *t, struct err *e);

/* Removes our postmaster.pid; frees. */
void target_done(struct target *t);

#endif
