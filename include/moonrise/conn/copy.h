/*
 * COPY in both directions at once on a session that blocks: how a walsender streams WAL (PostgreSQL's
 * protocol, "Streaming Replication Protocol"; libpq's PQgetCopyData and PQputCopyData). The session was
 * opened with the keyword `replication`; its commands are statements without parameters (db_query).
 *
 * An error other than ERR_SQL leaves a session that is only to be closed.
 */
#ifndef MOONRISE_CONN_COPY_H
#define MOONRISE_CONN_COPY_H

#include "moonrise/conn/db.h"

#include <stdbool.h>
#include <stddef.h>

/* Runs a command that begins to stream: 1, or 0 when it returned at once, with *out (as in db_query, NULL
 * without rows): of a timeline that has nothing more. ERR_SQL, ERR_CONNECT, ERR_TIMEOUT, ERR_CANCELLED. */
int copy_begin(struct db *d, const char *command, const struct result **out, int64_t deadline_ms,
               struct err *e);

enum copy_state { COPY_NOTHING, COPY_MESSAGE, COPY_ENDED };

/* Waits for the next message until `until_ms` or until the cancel flag is set, and returns an enum
 * copy_state: COPY_MESSAGE with bytes that are valid until the next call, COPY_ENDED when the server has
 * nothing more to send (copy_end says why). ERR_CONNECT. */
int copy_get(struct db *d, const void **bytes, size_t *len, int64_t until_ms, struct err *e);

/* Sends a message, whole, whatever the cancel flag says. ERR_CONNECT, ERR_TIMEOUT. */
int copy_put(struct db *d, const void *bytes, size_t len, int64_t deadline_ms, struct err *e);

/* Ends the stream on our side, drops what still comes, and reads how the command ended: *out (may be NULL)
 * as in db_query; NULL when it ended without rows. The session takes commands again, unless the server went
 * away with that: then the next one fails. Ignores the cancel flag. ERR_SQL, ERR_CONNECT, ERR_TIMEOUT. */
int copy_end(struct db *d, const struct result **out, int64_t deadline_ms, struct err *e);

#endif
