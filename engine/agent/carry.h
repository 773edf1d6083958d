/*
 * Carrying WAL: while a target is copied, and until its own receiver streams, what the source writes is received
 * into the target, where the source's slot may not or cannot hold it back for so long.
 *
 * A thread of its own receives (engine/stream) into DATADIR/moonrise.wal, without a slot and under a name that is
 * no mirror's: the holder of the mirror's slot is taken for the mirror (SAFETY.md, rule 1). The slot still is what
 * keeps the WAL that is not here yet: who calls moves it up (source_keep) to carry_kept, so that it never holds
 * back more than a segment and what is on its way. Only whole segments count: a half one the mirror streams again.
 *
 * From carry_deliver on whole segments go to the target's pg_wal. Before its server is started and while it
 * replays: it asks for a stream only once it has replayed all that is there, and by then the slot would have lost
 * what was written meanwhile. A standby replays what is put into its pg_wal (PostgreSQL's manual, "Standby Server
 * Operation").
 */
#ifndef AGENT_CARRY_H
#define AGENT_CARRY_H

#include "moonrise/pg/lsn.h"
#include "order.h"
#include "source.h"

#include <stdbool.h>
#include <stdint.h>

struct carry;
struct err;

/* Whether the slot may be overtaken: it holds back half of what it can, or so little more fits in that a fast
 * writer needs seconds for it. Where a slot has room for a whole copy it never comes to this. */
bool carry_is_wanted(const struct source_wal *wal);

/* Starts to receive from the source's start_lsn on, over the connection that args.settings.primary_conninfo
 * describes, into a directory that carry_clean has made sure of. ERR_REFUSED (no such setting), ERR_FORMAT,
 * ERR_IO, ... */
int carry_begin(struct carry **out, const struct order *o, const struct source *source,
                struct err *e);

/* Sees whether it still goes on. A link that broke is made anew for as long as the source has the WAL; whatever
 * else has ended it is the error of that: ERR_SPACE, ERR_NOTFOUND (the WAL is gone), ... */
int carry_check(struct carry *c, struct err *e);

/* From where on the source has to keep WAL: what lies before is durable here. Once carry_deliver was called, what
 * lies before is in pg_wal. */
lsn_t carry_kept(struct carry *c);

/* Moves the whole segments that are here into the target's pg_wal, durably. ERR_SPACE, ERR_IO. */
int carry_deliver(struct carry *c, struct err *e);

/* Adds to an error of the source what the last attempt to receive has failed with. */
void carry_explain(struct carry *c, struct err *e);

/* Bytes of WAL that were received, in whole segments. */
uint64_t carry_bytes(struct carry *c);

/* Ends the receiver, removes moonrise.wal with what was not delivered, frees. NULL is fine. */
void carry_end(struct carry *c);

/* Removes what a run that was killed has left: its backup was another one. */
int carry_clean(const struct order *o, struct err *e);

#endif
