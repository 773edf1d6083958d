/*
 * The inside of a blocking session, for the files that make one up: db.c runs statements, copy.c streams.
 * Private to engine/conn.
 */
#ifndef MOONRISE_ENGINE_CONN_DB_H
#define MOONRISE_ENGINE_CONN_DB_H

#include "moonrise/conn/db.h"

#include "pq.h"

struct db {
    struct pq pq;
    const atomic_bool *cancel;
    struct result result;
    char *copied; /* the last message of a COPY */
    int wants;
    bool busy;
    bool ended;         /* the server has ended the COPY, */
    bool completed;     /* and its command */
    struct err failure; /* why the session is broken */
};

/* Waits until the socket is ready for what is wanted, at most left_ms and never longer than a cancel flag
 * may go unseen. */
bool db_wait_ready(struct db *d, int64_t left_ms);

/* Drops the session, which is of no use after this error; its code. */
int db_break(struct db *d, const struct err *e);

#endif
