/*
 * sql: statements on an instance of this host, over its socket, for runbooks whose way there is none of
 * their own: the server's superuser is let in by peer, on its host only.
 */
#include "moonrise/base/err.h"
#include "moonrise/base/str.h"
#include "moonrise/base/user.h"
#include "moonrise/loop/loop.h"
#include "moonrise/pg/lsn.h"
#include "sql.h"

#include <stdlib.h>

#define STATEMENT_MS 10000
#define PARAMS_MAX   64
#define ROWS_MAX     100000

static void
set_field(struct message *row, const struct result *r, int at, int column)
{
    const char *name = result_name(r, column), *text = result_get(r, at, column);
    lsn_t lsn;
    double number;
    if (!text)
        return;
    switch (result_kind(r, column)) {
    case RESULT_BOOL:
        message_set_bool(row, name, text[0] == 't');
        break;
    case RESULT_INTEGER:
        if (result_integer(&number, text))
            message_set_int(row, name, (int64_t)number);
        else
            message_set_text(row, name, text);
        break;
    case RESULT_REAL:
        message_set_real(row, name, strtod(text, NULL));
        break;
    case RESULT_LSN:
        if (lsn_parse(&lsn, text, NULL) == 0) {
            message_set_int(row, name, (int64_t)lsn);
            break;
        }
        /* fall through */
    default:
        message_set_text(row, name, text);
    }
}

static void
tell_rows(struct message *m, const struct result *r)
{
    for (int i = 0; i < result_rows(r); i++) {
        struct message *row = message_new();
        for (int k = 0; k < result_columns(r); k++)
            set_field(row, r, i, k);
        message_append_take(m, "rows", row);
    }
    message_set_text(m, "command", result_command(r));
}

/* Each is a query of its own, so that a setting which keeps the next one out of the log is in effect. */
static int
run(struct order *o, struct db *db, int64_t deadline_ms, struct err *e)
{
    const char *params[PARAMS_MAX];
    const struct result *r;
    size_t count = message_count(o->args, "statements"), nparams = message_count(o->args, "params");
    int rc = 0;
    if (count == 0 || nparams > (count == 1 ? PARAMS_MAX : 0))
        return err_set(e, ERR_ARGUMENT, "%zu statements with %zu parameters", count, nparams);
    for (size_t i = 0; i < nparams; i++)
        params[i] = message_text_item(o->args, "params", i);
    for (size_t i = 0; rc == 0 && i < count; i++) {
        const char *sql = message_text_item(o->args, "statements", i);
        struct statement st = {.sql = sql, .nparams = (int)nparams, .params = params};
        rc = sql ? db_query(db, &r, &st, deadline_ms, e)
                 : err_set(e, ERR_PROTOCOL, "a statement is no text");
    }
    if (rc == 0 && result_rows(r) > ROWS_MAX)
        rc = err_set(e, ERR_LIMIT, "more than %d rows", ROWS_MAX);
    if (rc == 0)
        tell_rows(o->result, r);
    return rc;
}

/* Commits wait for nobody: what an adoption takes back must not hang at a mirror that is gone. That is said in
 * the session, so that pg_settings goes on telling in reset_val what others have. */
int
op_sql(struct order *o, struct err *e)
{
    struct user owner;
    struct db *db;
    int64_t deadline_ms = order_deadline(o, "wait_ms", STATEMENT_MS);
    int rc = user_read(&owner, e);
    if (rc < 0)
        return rc;
    struct sql_place place = {.datadir = o->datadir,
                              .user = o->user[0] ? o->user : owner.name,
                              .passfile = o->passfile,
                              .dbname = o->dbname,
                              .name = "moonrise",
                              .waits = true,
                              .statement_ms = deadline_ms - clock_ms()};
    rc = sql_connect(&db, &place, o, e);
    if (rc == 0)
        rc = sql_run(db, "set synchronous_commit = local", deadline_ms, e);
    if (rc == 0)
        rc = run(o, db, deadline_ms, e);
    db_close(db);
    user_done(&owner);
    return rc;
}
