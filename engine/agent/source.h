/*
 * The source's side of a recovery on this host: its slot, the checkpoint, and the backup session that is held
 * while blocks are copied. From a job's thread.
 */
#ifndef AGENT_SOURCE_H
#define AGENT_SOURCE_H

#include "order.h"

#include <stdint.h>

struct db;
struct err;

struct source {
    struct order *o;
    struct db *db;
    char *datadir; /* canonical */
    uint64_t sysid;
    const char *slot;
    char start_lsn[LSN_TEXT_BYTES];
    char *label; /* set by source_end */
};

/* Looks at args.source: its directory, that a primary of args.sysid runs there with full_page_writes on.
 * ERR_REFUSED, ERR_NOTFOUND, ERR_CONNECT, ... Free with source_close. */
int source_open(struct source *s, struct order *o, struct err *e);

/* Makes args.slot unless a good one exists, then completes an immediate checkpoint and begins a backup. */
int source_begin(struct source *s, struct err *e);

/* Whether the backup session still lives. */
int source_check(struct source *s, struct err *e);

/* Ends the backup; s->label is the backup label. */
int source_end(struct source *s, struct err *e);

/* Drops the session, and with it a backup that was not ended. */
void source_close(struct source *s);

#endif
