/*
 * A replication session with a server that is known: which system it is, what its sizes and its history
 * are, and that it will not take this receiver for a mirror. Private to engine/stream; any thread.
 */
#ifndef MOONRISE_ENGINE_STREAM_SESSION_H
#define MOONRISE_ENGINE_STREAM_SESSION_H

#include "moonrise/conn/db.h"
#include "moonrise/pg/timeline.h"
#include "moonrise/stream/stream.h"

#include "command.h"

struct stream_session {
    struct db *db;
    struct server_identity server;
    struct server_sizes sizes;
    struct timeline_history history; /* from session_begin on */
};

/* Connects and asks who it is; close it in any case. Nothing is written. */
int session_open(struct stream_session *s, const struct stream_spec *spec, struct err *e);

/* Sees to it that the directory has the history file of a timeline, durably. ERR_REFUSED: it has another
 * one of that name. */
int session_keep_history(struct stream_session *s, const struct stream_spec *spec,
                         uint32_t timeline, struct err *e);

/* Where the directory's WAL goes on, or where an empty one begins. Leaves the history file of the server's
 * timeline there. */
int session_begin(uint32_t *timeline, lsn_t *lsn, struct stream_session *s,
                  const struct stream_spec *spec, struct err *e);

void session_close(struct stream_session *s);

#endif
