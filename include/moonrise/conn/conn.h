/*
 * One PostgreSQL session on the loop: libpq without blocking, a deadline on everything.
 *
 * Loop thread only. A connection runs one query at a time; a second one is a bug of the caller. The
 * environment (PGOPTIONS, PGDATABASE, service files) changes nothing once conn_clear_environment was
 * called: what is not in `params` has libpq's built-in default, but for Kerberos encryption (off),
 * keepalives and tcp_user_timeout (a vanished host is noticed in 11 s). Text is UTF-8. Notices are
 * dropped.
 *
 * An ERR_CONNECT says in sys_errno what happened: ECONNREFUSED or ENOENT (nobody listens),
 * ECONNRESET (the session broke), EHOSTUNREACH and the like, EDESTADDRREQ (the name has no
 * address), EKEYREJECTED (server and client could not agree on who they are); EMFILE, ENFILE, ENOMEM,
 * ENOBUFS, EADDRNOTAVAIL (this process or host lacks something: says nothing of the server).
 */
#ifndef MOONRISE_CONN_CONN_H
#define MOONRISE_CONN_CONN_H

#include <stdbool.h>
#include <stdint.h>

struct conn;
struct err;
struct loop;
struct result;

/* Connection parameters as libpq names them; both arrays end with NULL. An empty value is none. */
struct conn_params {
    const char *const *keywords;
    const char *const *values;
};

/* Removes what libpq would read from the environment (PG...). Once, before there is a second thread. */
void conn_clear_environment(void);

/* Reads a connection string ("host=... port=..." or a URI). ERR_ARGUMENT. Free with conn_params_free. */
int conn_params_parse(struct conn_params *out, const char *text, struct err *e);

/* A copy that conn_params_free frees. */
void conn_params_copy(struct conn_params *out, const struct conn_params *from);
void conn_params_free(struct conn_params *params);

/* One statement with text parameters ($1 ...; NULL is SQL NULL). Without parameters it may be several,
 * separated by ; and the last result counts. Borrowed by the call that gets it. */
struct statement {
    const char *sql;
    int nparams;
    const char *const *params;
};

struct conn_spec {
    struct conn_params params;
    int64_t timeout_ms; /* of the whole attempt */
    /* Once, later: with e == NULL when the session is ready, else with ERR_CONNECT, ERR_TIMEOUT or
     * ERR_SQL (with SQLSTATE where the server gave one, as 57P03). */
    void (*done)(void *arg, const struct err *e);
    void *arg;
};

/* Begins to connect. The caller frees the connection, however it ends. Name resolution is not done
 * here: hosts are addresses or are given with hostaddr, or the caller accepts that it may block. Of
 * several hosts one after another is tried within the one timeout; one that hangs uses it up. */
void conn_open(struct conn **out, struct loop *l, const struct conn_spec *spec);

/* Runs a statement. `done` is called once, later, with a result that it borrows, or an error. After
 * ERR_TIMEOUT the server has been asked to cancel and the session is broken for further use. */
void conn_query(struct conn *c, const struct statement *st, int64_t timeout_ms,
                void (*done)(void *arg, const struct result *r, const struct err *e), void *arg);

/* Says when an idle session breaks (the server went away): once; arg as given. fn may be NULL. */
void conn_on_lost(struct conn *c, void (*fn)(void *arg, const struct err *e), void *arg);

bool conn_is_open(const struct conn *c);
bool conn_is_busy(const struct conn *c);

/* The server process id, and the numeric server version (150020), 0 when not connected. */
int conn_backend_pid(const struct conn *c);
int conn_server_version(const struct conn *c);

/* Drops the session at once, without callbacks. Allowed inside its callbacks. NULL is fine. */
void conn_free(struct conn *c);

#endif
