/*
 * The one question that every probe asks, and how its answer is read. Private to engine/probe.
 */
#ifndef MOONRISE_ENGINE_PROBE_QUESTION_H
#define MOONRISE_ENGINE_PROBE_QUESTION_H

#include "moonrise/probe/prober.h"

struct err;
struct result;

/* SQL for PostgreSQL 13 to 16, primaries and mirrors alike; $1 is the slot of the instance's mirror or
 * NULL, $2 whether own_level is asked for. */
extern const char question_sql[];

/* Reads the answer into the part of *o that is set with EVIDENCE_NONE. *own_level is set when it was asked for:
 * whether the level of commits is this database's or role's own and not the server's. ERR_PROTOCOL. */
int question_read(struct observation *o, bool *own_level, const struct result *r, struct err *e);

#endif
