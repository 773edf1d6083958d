/*
 * libpq as a state machine that never waits: whoever drives it (conn on the loop, db with poll) waits
 * for pq_socket to become ready for what the last step wanted and takes the next step. Private to
 * engine/conn.
 */
#ifndef MOONRISE_ENGINE_CONN_PQ_H
#define MOONRISE_ENGINE_CONN_PQ_H

#include "moonrise/base/err.h"
#include "moonrise/conn/conn.h"

#include <libpq-fe.h>
#include <stdbool.h>

struct result {
    PGresult *pg;
};

struct pq {
    PGconn *conn;
    PGresult *kept;     /* the last result of the statement that runs */
    struct err failure; /* its first error, code 0 while there is none */
    struct err fatal;   /* the server's last word outside of any statement, code 0 if none */
};

/* Begins to connect. ERR_CONNECT, ERR_ARGUMENT. pq_close is needed afterwards in any case. */
int pq_start(struct pq *p, const struct conn_params *params, struct err *e);

/* The next step of connecting: 1 the session is ready, 0 wait for *wants (FD_READ, FD_WRITE) on a
 * socket that may be another one than before, or ERR_CONNECT, ERR_SQL. */
int pq_connect_step(struct pq *p, int *wants, struct err *e);

/* What a connection that is being made waits for, in words. */
const char *pq_phase(const struct pq *p);

/* Sends a statement, as far as that goes without waiting for *wants. ERR_CONNECT. */
int pq_send(struct pq *p, const struct statement *st, int *wants, struct err *e);

/* The next step of a statement: 1 it has returned (*out is the caller's, to be cleared), 0 wait for
 * *wants, or ERR_SQL, ERR_CONNECT, ERR_PROTOCOL; after an error pq_alive says what is left. */
int pq_query_step(struct pq *p, int *wants, struct result *out, struct err *e);

/* Takes what came on an idle session. ERR_CONNECT (with SQLSTATE if the server said why): lost. */
int pq_idle_step(struct pq *p, struct err *e);

bool pq_alive(const struct pq *p);
int pq_socket(const struct pq *p);

/* Asks the server to cancel the statement, on a thread of its own since libpq waits for the server
 * there without a deadline; waits for that at most wait_ms. */
void pq_cancel(const struct pq *p, int wait_ms);

void pq_close(struct pq *p);

#endif
