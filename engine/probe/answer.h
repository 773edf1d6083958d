/*
 * The question of a probe, and its answer as an observation. Private to engine/probe.
 */
#ifndef MOONRISE_ENGINE_PROBE_ANSWER_H
#define MOONRISE_ENGINE_PROBE_ANSWER_H

#include "moonrise/conn/conn.h"
#include "moonrise/probe/prober.h"

struct result;

/* $1 is the slot of the instance's mirror, or NULL. PostgreSQL 13 to 17. */
extern const char answer_sql[];

/* Fills the fields of an answer. False when the row is not what was asked for. */
bool answer_read(struct observation *o, const struct result *r);

#endif
