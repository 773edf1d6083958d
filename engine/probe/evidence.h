/*
 * What a failed probe proves. Private to engine/probe.
 */
#ifndef MOONRISE_ENGINE_PROBE_EVIDENCE_H
#define MOONRISE_ENGINE_PROBE_EVIDENCE_H

#include "moonrise/probe/prober.h"

struct err;

/* The evidence of an error of conn_open or conn_query on a session that had just been opened. */
enum evidence evidence_of(const struct err *e);

/* Which of its kinds a 57P03 is, from the server's words in any language that PostgreSQL speaks. */
enum evidence evidence_of_words(const char *message);

#endif
