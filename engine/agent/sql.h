/*
 * Sessions of the agent with an instance of its own host, over the socket that postmaster.pid names.
 *
 * A lock does not cover SQL in flight: what an agent began goes on in the server when the agent is stopped
 * or dead. So the sessions of an order are named "moonrise agent EPOCH", and the next order ends them
 * before it says anything. From a job's thread.
 */
#ifndef AGENT_SQL_H
#define AGENT_SQL_H

#include "moonrise/conn/db.h"
#include "moonrise/conn/result.h"
#include "moonrise/pg/lsn.h"
#include "order.h"

#include <stdbool.h>
#include <stdint.h>

struct str;

#define SQL_TIMEOUT_MS 10000

/* Where to connect and as whom; `name` is the application_name. */
struct sql_place {
    const char *datadir;
    const char *user, *passfile, *dbname;
    const char *name;
    int64_t connect_ms;   /* for the connection, 0 is five seconds */
    int64_t statement_ms; /* statement_timeout, 0 is none */
    bool waits;           /* its commits wait as everybody's do; else synchronous_commit is local */
    bool walsender;       /* a session of physical replication: it takes SHOW only */
};

/* Connects to the server of place->datadir. ERR_NOTFOUND when no server is up there, ERR_CONNECT, ... */
int sql_connect(struct db **out, const struct sql_place *place, const struct order *o,
                struct err *e);

/* A session of this order with its instance. The `first` one ends the sessions that earlier orders have left
 * and sees them gone, or fails with ERR_TIMEOUT; its commits wait for nobody. A second one's do, as those
 * of any client. */
int sql_open(struct db **out, const struct order *o, bool first, struct err *e);

/* A setting as sessions get it whose database and role were given none of their own, *out to be freed with
 * free(). Only a walsender tells: what the order's database or role was given hides the server's value in
 * every other session, and does not reach one of physical replication (InitPostgres in postinit.c). */
int sql_server_setting(char **out, const struct order *o, const char *name, struct err *e);

/* The first field of the first row, to be freed with free(); NULL for SQL NULL or no row. */
int sql_text(char **out, struct db *db, const char *sql, int64_t deadline_ms, struct err *e);

/* The same as a truth value (false for NULL), and as a position (0 for NULL). */
int sql_bool(bool *out, struct db *db, const char *sql, int64_t deadline_ms, struct err *e);
int sql_lsn(lsn_t *out, struct db *db, const char *sql, int64_t deadline_ms, struct err *e);

/* Runs a statement whose result nobody needs. */
int sql_run(struct db *db, const char *sql, int64_t deadline_ms, struct err *e);

/* Runs a statement with one parameter; *out (may be NULL) as db_query's. The usual deadline. */
int sql_with(const struct result **out, struct db *db, const char *sql, const char *param,
             struct err *e);

/* ALTER SYSTEM SET name = 'value' (NULL: RESET) and pg_reload_conf(). */
int sql_alter_system(struct db *db, const char *name, const char *value, int64_t deadline_ms,
                     struct err *e);

/* Appends a literal, safe whatever standard_conforming_strings says. */
void sql_literal(struct str *out, const char *text);

/* Ends the backend and waits until it is gone. ERR_TIMEOUT. */
int sql_end_backend(struct db *db, const struct order *o, const char *pid, int64_t deadline_ms,
                    struct err *e);

#endif
