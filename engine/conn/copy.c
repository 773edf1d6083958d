#include "moonrise/conn/copy.h"

#include "moonrise/base/err.h"
#include "moonrise/loop/fd.h"
#include "moonrise/loop/loop.h"

#include "db.h"
#include "words.h"

/* The session broke: why, in libpq's words. */
static int
copy_lost(struct db *d, struct err *e)
{
    struct err why;
    words_of_session(&why, d->pq.conn, &d->pq.fatal);
    db_break(d, &why);
    if (e)
        *e = why;
    return why.code;
}

static int
copy_late(struct db *d, struct err *e)
{
    struct err why;
    err_set(&why, ERR_TIMEOUT, "no answer before the deadline");
    db_break(d, &why);
    if (e)
        *e = why;
    return why.code;
}

static int
copy_broken(const struct db *d, struct err *e)
{
    if (e)
        *e = d->failure;
    return d->failure.code;
}

static bool
copy_cancelled(const struct db *d)
{
    return d->cancel && atomic_load(d->cancel);
}

/* Keeps a result that has rows, or the first error. The others only say that something ended. */
static void
copy_keep(struct db *d, PGresult *res)
{
    switch (PQresultStatus(res)) {
    case PGRES_TUPLES_OK:
        PQclear(d->result.pg);
        d->result.pg = res;
        return;
    case PGRES_BAD_RESPONSE:
    case PGRES_FATAL_ERROR:
        if (d->pq.failure.code == 0)
            words_of_result(&d->pq.failure, res);
        break;
    case PGRES_COMMAND_OK:
        d->completed = true;
        break;
    default:
        break;
    }
    PQclear(res);
}

/* What is left to be said of a command that has ended, its last word read. */
static int
copy_outcome(struct db *d, const struct result **out, struct err *e)
{
    if (out)
        *out = d->result.pg ? &d->result : NULL;
    if (d->pq.failure.code == 0)
        return 0;
    struct err why = d->pq.failure;
    if (!pq_alive(&d->pq))
        db_break(d, &why);
    if (e)
        *e = why;
    return why.code;
}

/* Takes results until the command has ended (1), the stream begins (2), or more must come (0). */
static int
copy_results(struct db *d)
{
    while (!PQisBusy(d->pq.conn)) {
        PGresult *res = PQgetResult(d->pq.conn);
        if (!res)
            return 1;
        ExecStatusType status = PQresultStatus(res);
        copy_keep(d, res);
        if (status == PGRES_COPY_BOTH || status == PGRES_COPY_IN || status == PGRES_COPY_OUT)
            return 2;
    }
    return 0;
}

/* Waits a slice for what is to be read, and for room for what is to be sent. */
static int
copy_turn(struct db *d, int64_t deadline_ms, struct err *e)
{
    int unsent = PQflush(d->pq.conn);
    int64_t left = deadline_ms - clock_ms();
    if (unsent < 0)
        return copy_lost(d, e);
    if (left <= 0)
        return copy_late(d, e);
    d->wants = unsent > 0 ? FD_READ | FD_WRITE : FD_READ;
    if (db_wait_ready(d, left) && !PQconsumeInput(d->pq.conn))
        return copy_lost(d, e);
    return 0;
}

int
copy_begin(struct db *d, const char *command, const struct result **out, int64_t deadline_ms,
           struct err *e)
{
    struct statement st = {.sql = command};
    int rc = db_send(d, &st, e);
    if (rc < 0)
        return rc;
    d->busy = false;
    d->ended = d->completed = false;
    int came;
    while ((came = copy_results(d)) == 0) {
        if (copy_cancelled(d)) {
            struct err why;
            err_set(&why, ERR_CANCELLED, "cancelled");
            db_break(d, &why);
            return copy_broken(d, e);
        }
        rc = copy_turn(d, deadline_ms, e);
        if (rc < 0)
            return rc;
    }
    rc = copy_outcome(d, out, e);
    return rc < 0 ? rc : came == 2;
}

int
copy_get(struct db *d, const void **bytes, size_t *len, int64_t until_ms, struct err *e)
{
    if (!d->pq.conn)
        return copy_broken(d, e);
    PQfreemem(d->copied);
    d->copied = NULL;
    for (bool last = false;;) {
        int n = PQgetCopyData(d->pq.conn, &d->copied, 1);
        if (n > 0) {
            *bytes = d->copied;
            *len = (size_t)n;
            return COPY_MESSAGE;
        }
        if (n == -1) {
            d->ended = true;
            return COPY_ENDED;
        }
        if (n < 0)
            return copy_lost(d, e);
        if (last)
            return COPY_NOTHING;
        int64_t left = until_ms - clock_ms();
        d->wants = FD_READ;
        if (db_wait_ready(d, left > 0 ? left : 0) && !PQconsumeInput(d->pq.conn))
            return copy_lost(d, e);
        /* Also when something came: a message that comes byte by byte is not waited for any longer. */
        last = left <= 0 || copy_cancelled(d);
    }
}

int
copy_put(struct db *d, const void *bytes, size_t len, int64_t deadline_ms, struct err *e)
{
    if (!d->pq.conn)
        return copy_broken(d, e);
    int rc;
    while ((rc = PQputCopyData(d->pq.conn, bytes, (int)len)) == 0)
        if ((rc = copy_turn(d, deadline_ms, e)) < 0)
            return rc;
    if (rc < 0)
        return copy_lost(d, e);
    int unsent;
    while ((unsent = PQflush(d->pq.conn)) > 0)
        if ((rc = copy_turn(d, deadline_ms, e)) < 0)
            return rc;
    return unsent < 0 ? copy_lost(d, e) : 0;
}

/* Drops the messages that were on their way when we had enough. */
static int
copy_drain(struct db *d, int64_t deadline_ms, struct err *e)
{
    while (!d->ended) {
        char *unread = NULL;
        int n = PQgetCopyData(d->pq.conn, &unread, 1);
        PQfreemem(unread);
        d->ended = n == -1;
        if (n < -1)
            return copy_lost(d, e);
        int rc = n == 0 ? copy_turn(d, deadline_ms, e) : 0;
        if (rc < 0)
            return rc;
    }
    return 0;
}

int
copy_end(struct db *d, const struct result **out, int64_t deadline_ms, struct err *e)
{
    if (!d->pq.conn)
        return copy_broken(d, e);
    /* A server that ended with an error awaits no end of ours: then this fails, and the results tell. */
    PQputCopyEnd(d->pq.conn, NULL);
    int rc = copy_drain(d, deadline_ms, e);
    if (rc < 0)
        return rc;
    int came;
    while ((came = copy_results(d)) != 1) {
        /* The server has ended its side first, and learns of our end only now. */
        if (came == 2 && PQputCopyEnd(d->pq.conn, NULL) < 0)
            return copy_lost(d, e);
        rc = copy_turn(d, deadline_ms, e);
        /* A walsender that shuts down completes its command, and is gone. */
        if (rc == ERR_CONNECT && d->completed && d->pq.failure.code == 0)
            break;
        if (rc < 0)
            return rc;
    }
    return copy_outcome(d, out, e);
}
