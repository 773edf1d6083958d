#include "sql.h"

#include "moonrise/base/err.h"
#include "moonrise/base/path.h"
#include "moonrise/base/str.h"
#include "moonrise/base/user.h"
#include "moonrise/loop/loop.h"
#include "moonrise/pg/pidfile.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONNECT_TIMEOUT_MS 5000
#define GONE_TIMEOUT_MS    3000

static int64_t
deadline_of(const struct sql_place *place)
{
    return clock_ms() + (place->connect_ms ? place->connect_ms : CONNECT_TIMEOUT_MS);
}

static int
connect_to(struct db **out, const struct sql_place *place, const struct pidfile *pf,
           const struct order *o, struct err *e)
{
    char port[12], options[128];
    struct user owner;
    snprintf(port, sizeof port, "%d", pf->port);
    snprintf(options, sizeof options,
             "-c search_path=pg_catalog -c statement_timeout=%" PRId64 "%s", place->statement_ms,
             place->waits ? "" : " -c synchronous_commit=local");
    /* Who must answer on a socket: the server runs as we do. Somebody else's would be given the password. */
    int rc = user_read(&owner, e);
    if (rc < 0)
        return rc;
    const char *const keywords[] = {
        "host",        "port",        "user", "passfile", "dbname", "options", "application_name",
        "replication", "requirepeer", NULL};
    const char *const values[] = {pf->socket_dir[0] ? pf->socket_dir : pf->listen,
                                  port,
                                  place->user,
                                  place->passfile,
                                  place->dbname,
                                  options,
                                  place->name,
                                  place->walsender ? "true" : "",
                                  owner.name,
                                  NULL};
    struct conn_params params = {.keywords = keywords, .values = values};
    rc = db_open(out, &params, deadline_of(place), o->call->cancel, e);
    user_done(&owner);
    return rc;
}

/* A stale postmaster.pid may name a socket that another server has taken since. */
static int
verify_place(struct db *db, const struct sql_place *place, struct err *e)
{
    char *told, *is = NULL;
    int rc = sql_text(&told, db, "SHOW data_directory", deadline_of(place), e);
    if (rc == 0)
        rc = path_canonical(&is, told ? told : "", e);
    if (rc == 0 && strcmp(is, place->datadir) != 0)
        rc = err_set(e, ERR_CONNECT, "the server that answers there serves %s", is);
    free(told);
    free(is);
    return rc;
}

int
sql_connect(struct db **out, const struct sql_place *place, const struct order *o, struct err *e)
{
    struct pidfile pf;
    *out = NULL;
    int rc = pidfile_read(&pf, place->datadir, e);
    if (rc == ERR_NOTFOUND)
        return err_set(e, ERR_NOTFOUND, "no server runs in %s", place->datadir);
    if (rc < 0)
        return rc;
    if (pf.port == 0 || (!pf.socket_dir[0] && !pf.listen[0]))
        rc = err_set(e, ERR_CONNECT, "the server in %s does not accept sessions yet",
                     place->datadir);
    else
        rc = connect_to(out, place, &pf, o, e);
    pidfile_done(&pf);
    if (rc == 0 && (rc = verify_place(*out, place, e)) < 0) {
        db_close(*out);
        *out = NULL;
    }
    if (rc < 0)
        err_wrap(e, "session with %s", place->datadir);
    return rc;
}

/* Ends what earlier orders have left behind; their late statements must not win. Only sessions of our own
 * role: a superuser's that bears such a name is no order's, and could not be ended. */
static int
end_earlier(struct db *db, const struct order *o, struct err *e)
{
    static const char end_sql[] =
        "select pg_terminate_backend(pid) from pg_stat_activity "
        "where application_name like 'moonrise agent %' and usename = session_user "
        "and pid <> pg_backend_pid()";
    int64_t deadline = clock_ms() + GONE_TIMEOUT_MS;
    for (;;) {
        const struct result *r;
        int rc = db_query(db, &r, &(struct statement){.sql = end_sql}, deadline, e);
        if (rc < 0)
            return err_wrap(e, "ending the sessions of earlier orders");
        if (result_rows(r) == 0)
            return 0;
        if (clock_ms() > deadline)
            return err_set(e, ERR_TIMEOUT, "a session of an earlier order does not end");
        if ((rc = order_pause(o, 2, e)) < 0)
            return rc;
    }
}

/* A session of the order's own instance, named after its epoch. */
static int
open_own(struct db **out, const struct order *o, bool waits, bool walsender, struct err *e)
{
    char name[48];
    snprintf(name, sizeof name, "moonrise agent %" PRIu64, o->claim.epoch);
    struct sql_place place = {.datadir = o->datadir,
                              .user = o->user,
                              .passfile = o->passfile,
                              .dbname = o->dbname,
                              .name = name,
                              .waits = waits,
                              .walsender = walsender,
                              .statement_ms = SQL_TIMEOUT_MS};
    return sql_connect(out, &place, o, e);
}

int
sql_open(struct db **out, const struct order *o, bool first, struct err *e)
{
    int rc = open_own(out, o, !first, false, e);
    if (rc == 0 && first && (rc = end_earlier(*out, o, e)) < 0) {
        db_close(*out);
        *out = NULL;
    }
    return rc;
}

int
sql_server_setting(char **out, const struct order *o, const char *name, struct err *e)
{
    char show[80];
    snprintf(show, sizeof show, "SHOW %s", name); /* a walsender knows no "show" */
    struct db *db;
    *out = NULL;
    int rc = open_own(&db, o, true, true, e);
    if (rc == 0)
        rc = sql_text(out, db, show, clock_ms() + SQL_TIMEOUT_MS, e);
    db_close(db);
    return rc;
}

int
sql_text(char **out, struct db *db, const char *sql, int64_t deadline_ms, struct err *e)
{
    const struct result *r;
    *out = NULL;
    int rc = db_query(db, &r, &(struct statement){.sql = sql}, deadline_ms, e);
    if (rc < 0)
        return rc;
    const char *text = result_rows(r) > 0 ? result_get(r, 0, 0) : NULL;
    *out = text ? mem_strdup(text) : NULL;
    return 0;
}

int
sql_bool(bool *out, struct db *db, const char *sql, int64_t deadline_ms, struct err *e)
{
    char *text;
    int rc = sql_text(&text, db, sql, deadline_ms, e);
    *out = rc == 0 && text && strcmp(text, "t") == 0;
    free(text);
    return rc;
}

int
sql_lsn(lsn_t *out, struct db *db, const char *sql, int64_t deadline_ms, struct err *e)
{
    char *text;
    *out = 0;
    int rc = sql_text(&text, db, sql, deadline_ms, e);
    if (rc == 0 && text)
        rc = lsn_parse(out, text, e);
    free(text);
    return rc;
}

int
sql_run(struct db *db, const char *sql, int64_t deadline_ms, struct err *e)
{
    return db_query(db, NULL, &(struct statement){.sql = sql}, deadline_ms, e);
}

int
sql_with(const struct result **out, struct db *db, const char *sql, const char *param,
         struct err *e)
{
    struct statement st = {.sql = sql, .nparams = 1, .params = &param};
    return db_query(db, out, &st, clock_ms() + SQL_TIMEOUT_MS, e);
}

void
sql_literal(struct str *out, const char *text)
{
    str_puts(out, " E'");
    for (const char *p = text; *p; p++) {
        if (*p == '\'' || *p == '\\')
            str_append(out, p, 1);
        str_append(out, p, 1);
    }
    str_puts(out, "'");
}

int
sql_alter_system(struct db *db, const char *name, const char *value, int64_t deadline_ms,
                 struct err *e)
{
    struct str sql = STR_INIT;
    if (name[strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789_.")] || !name[0])
        return err_set(e, ERR_ARGUMENT, "'%s' is no name of a setting", name);
    str_printf(&sql, "ALTER SYSTEM %s %s", value ? "SET" : "RESET", name);
    if (value) {
        str_puts(&sql, " =");
        sql_literal(&sql, value);
    }
    int rc = sql_run(db, sql.data, deadline_ms, e);
    if (rc == 0)
        rc = sql_run(db, "select pg_reload_conf()", deadline_ms, e);
    str_free(&sql);
    return rc < 0 ? err_wrap(e, "setting %s", name) : 0;
}

int
sql_end_backend(struct db *db, const struct order *o, const char *pid, int64_t deadline_ms,
                struct err *e)
{
    static const char sql[] =
        "select pg_terminate_backend(pid) from pg_stat_activity where pid = $1::int";
    for (;;) {
        const struct result *r;
        int rc = sql_with(&r, db, sql, pid, e);
        if (rc < 0 || result_rows(r) == 0)
            return rc;
        if (clock_ms() > deadline_ms)
            return err_set(e, ERR_TIMEOUT, "backend %s does not end", pid);
        if ((rc = order_pause(o, 5, e)) < 0)
            return rc;
    }
}
