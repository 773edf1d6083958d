/*
 * What libpq says about a failure, as an error: one line, the SQLSTATE where the server gave one, and an
 * errno for what happened to the connection. Private to engine/conn.
 */
#ifndef MOONRISE_ENGINE_CONN_WORDS_H
#define MOONRISE_ENGINE_CONN_WORDS_H

#include "moonrise/base/err.h"

#include <libpq-fe.h>

/* A connection that could not be made: ERR_SQL with SQLSTATE when the server refused it, else
 * ERR_CONNECT with sys_errno as conn.h tells. */
int words_of_connect(struct err *e, const PGconn *conn);

/* A session that broke: ERR_CONNECT; `fatal` is the server's last word, code 0 when it had none. */
int words_of_session(struct err *e, const PGconn *conn, const struct err *fatal);

/* A statement's error: ERR_SQL, or ERR_CONNECT when it bears no SQLSTATE. */
int words_of_result(struct err *e, const PGresult *res);

#endif
