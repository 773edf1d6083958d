/*
 * Physical replication slots of an instance. From a job's thread.
 */
#ifndef AGENT_SLOT_H
#define AGENT_SLOT_H

#include "order.h"

#include <stdbool.h>

struct db;
struct err;

/* Makes a slot that reserves WAL at once, unless a good one exists; one that reserves nothing, or has lost
 * its WAL, is made anew. *made says whether it is new. */
int slot_create(bool *made, struct db *db, const char *name, struct err *e);

/* Drops it; nothing happens when it does not exist. A walsender that still holds it is ended. */
int slot_drop(struct db *db, const struct order *o, const char *name, struct err *e);

/* Ends the walsender that holds the slot, if any. */
int slot_free_up(struct db *db, const struct order *o, const char *name, struct err *e);

#endif
