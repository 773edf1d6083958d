/*
 * One PostgreSQL session that blocks: for jobs on threads of their own (orders, patches), never on the
 * loop. Every call has a deadline (clock_ms value) and looks at the cancel flag several times a second.
 */
#ifndef MOONRISE_CONN_DB_H
#define MOONRISE_CONN_DB_H

#include "moonrise/conn/conn.h"

#include <stdatomic.h>
#include <stdint.h>

struct db;
struct err;
struct result;

/* Connects. ERR_CONNECT, ERR_TIMEOUT, ERR_CANCELLED, ERR_SQL (SQLSTATE set). Close with db_close.
 * `cancel` may be NULL and must live as long as the session. */
int db_open(struct db **out, const struct conn_params *params, int64_t deadline_ms,
            const atomic_bool *cancel, struct err *e);

/* Runs one statement with text parameters. *out (may be NULL) is valid until the next call on this
 * session. On ERR_TIMEOUT and ERR_CANCELLED the server is asked to cancel the statement. */
int db_query(struct db *d, const struct result **out, const struct statement *st,
             int64_t deadline_ms, struct err *e);

/* Sends a statement and does not wait: db_poll asks whether it has returned. One at a time. */
int db_send(struct db *d, const struct statement *st, struct err *e);

/* 1 when the statement sent has returned (*out as in db_query), 0 when not within wait_ms, or an error. */
int db_poll(struct db *d, const struct result **out, int64_t wait_ms, struct err *e);

/* Asks the server to cancel the running statement. */
void db_cancel(struct db *d);

int db_backend_pid(const struct db *d);
int db_server_version(const struct db *d);

/* A setting that the server reports by itself ("application_name", "server_version", ...), as the session
 * has it; NULL when it does not report it. Valid until the next call. */
const char *db_parameter(const struct db *d, const char *name);

void db_close(struct db *d);

#endif
