#include "db.h"

#include "moonrise/base/str.h"
#include "moonrise/loop/fd.h"
#include "moonrise/loop/loop.h"

#include <poll.h>
#include <stdlib.h>

#define DB_SLICE_MS  100 /* how long a cancel flag may go unseen */
#define DB_CANCEL_MS 500 /* for the server to take note of a cancel */

bool
db_wait_ready(struct db *d, int64_t left_ms)
{
    struct pollfd p = {
        .fd = pq_socket(&d->pq),
        .events = (short)((d->wants & FD_READ ? POLLIN : 0) | (d->wants & FD_WRITE ? POLLOUT : 0))};
    /* An interrupted wait is a short one. */
    return poll(&p, 1, left_ms < DB_SLICE_MS ? (int)left_ms : DB_SLICE_MS) > 0;
}

/* Waits until the socket is ready, at most a slice: 0, ERR_TIMEOUT past the deadline, ERR_CANCELLED. */
static int
db_wait(struct db *d, int64_t deadline_ms, struct err *e)
{
    if (d->cancel && atomic_load(d->cancel))
        return err_set(e, ERR_CANCELLED, "cancelled");
    int64_t left = deadline_ms - clock_ms();
    if (left <= 0)
        return err_set(e, ERR_TIMEOUT, "no answer before the deadline");
    return db_wait_ready(d, left);
}

static int
db_connect(struct db *d, int64_t deadline_ms, struct err *e)
{
    d->wants = FD_WRITE;
    for (;;) {
        int rc = db_wait(d, deadline_ms, e);
        if (rc == ERR_TIMEOUT)
            return err_set(e, rc, "no session before the deadline: %s", pq_phase(&d->pq));
        if (rc > 0)
            rc = pq_connect_step(&d->pq, &d->wants, e);
        if (rc != 0)
            return rc < 0 ? rc : 0;
    }
}

int
db_open(struct db **out, const struct conn_params *params, int64_t deadline_ms,
        const atomic_bool *cancel, struct err *e)
{
    struct db *d = mem_zalloc(sizeof(*d));
    d->cancel = cancel;
    *out = NULL;
    int rc = pq_start(&d->pq, params, e);
    if (rc == 0)
        rc = db_connect(d, deadline_ms, e);
    if (rc != 0) {
        db_close(d);
        return rc;
    }
    *out = d;
    return 0;
}

static void
db_clear(struct db *d)
{
    PQclear(d->result.pg);
    d->result.pg = NULL;
}

int
db_break(struct db *d, const struct err *e)
{
    d->failure = *e;
    d->busy = false;
    pq_close(&d->pq);
    return e->code;
}

int
db_send(struct db *d, const struct statement *st, struct err *e)
{
    struct err why = {0};
    must(!d->busy);
    db_clear(d);
    if (!d->pq.conn) {
        why = d->failure;
    } else if (pq_send(&d->pq, st, &d->wants, &why) == 0) {
        d->busy = true;
        return 0;
    } else {
        db_break(d, &why);
    }
    if (e)
        *e = why;
    return why.code;
}

/* 1 the statement has returned, 0 the time is up and it has not, or an error. */
static int
db_run(struct db *d, int64_t until_ms, struct err *e)
{
    for (;;) {
        int rc = pq_query_step(&d->pq, &d->wants, &d->result, e);
        if (rc != 0) {
            d->busy = false;
            if (!pq_alive(&d->pq))
                db_break(d, e);
            return rc;
        }
        rc = db_wait(d, until_ms, e);
        if (rc == ERR_TIMEOUT)
            return 0;
        if (rc < 0) {
            pq_cancel(&d->pq, DB_CANCEL_MS);
            return db_break(d, e);
        }
    }
}

int
db_poll(struct db *d, const struct result **out, int64_t wait_ms, struct err *e)
{
    struct err why = {0};
    must(d->busy);
    int rc = db_run(d, clock_ms() + wait_ms, &why);
    if (rc > 0 && out)
        *out = &d->result;
    if (rc < 0 && e)
        *e = why;
    return rc;
}

int
db_query(struct db *d, const struct result **out, const struct statement *st, int64_t deadline_ms,
         struct err *e)
{
    struct err why = {0};
    int rc = db_send(d, st, &why);
    if (rc == 0) {
        rc = db_run(d, deadline_ms, &why);
        if (rc == 0) {
            err_set(&why, ERR_TIMEOUT, "no answer before the deadline");
            pq_cancel(&d->pq, DB_CANCEL_MS);
            rc = db_break(d, &why);
        }
    }
    if (rc > 0 && out)
        *out = &d->result;
    if (rc < 0 && e)
        *e = why;
    return rc < 0 ? rc : 0;
}

void
db_cancel(struct db *d)
{
    pq_cancel(&d->pq, DB_CANCEL_MS);
}

int
db_backend_pid(const struct db *d)
{
    return d->pq.conn ? PQbackendPID(d->pq.conn) : 0;
}

int
db_server_version(const struct db *d)
{
    return d->pq.conn ? PQserverVersion(d->pq.conn) : 0;
}

const char *
db_parameter(const struct db *d, const char *name)
{
    return d->pq.conn ? PQparameterStatus(d->pq.conn, name) : NULL;
}

void
db_close(struct db *d)
{
    if (!d)
        return;
    db_clear(d);
    PQfreemem(d->copied);
    pq_close(&d->pq);
    free(d);
}
