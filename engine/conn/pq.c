#include "pq.h"

#include "moonrise/base/str.h"
#include "moonrise/loop/fd.h"

#include "words.h"

#include <stdlib.h>
#include <string.h>

/* What holds unless the caller says otherwise. Kerberos is off since it may ask the network before the
 * first packet; the keepalives end a session to a host that vanished (sockets of files ignore them). */
static const char *const pq_defaults[][2] = {
    {"fallback_application_name", "moonrise"},
    {"gssencmode", "disable"},
    {"keepalives", "1"},
    {"keepalives_idle", "5"},
    {"keepalives_interval", "2"},
    {"keepalives_count", "3"},
    {"tcp_user_timeout", "10000"},
};

#define PQ_DEFAULTS (sizeof(pq_defaults) / sizeof(pq_defaults[0]))

static void
pq_notice(void *arg, const PGresult *res)
{
    struct pq *p = arg;
    const char *severity = PQresultErrorField(res, PG_DIAG_SEVERITY_NONLOCALIZED);
    /* An error outside of any statement is the server's reason for ending the session. */
    if (severity && (strcmp(severity, "FATAL") == 0 || strcmp(severity, "PANIC") == 0))
        words_of_result(&p->fatal, res);
}

int
pq_start(struct pq *p, const struct conn_params *params, struct err *e)
{
    *p = (struct pq){0};
    size_t n = 0, given = 0;
    while (params->keywords[given])
        given++;
    const char **keywords = mem_zalloc((PQ_DEFAULTS + given + 2) * sizeof(*keywords));
    const char **values = mem_zalloc((PQ_DEFAULTS + given + 2) * sizeof(*values));
    for (; n < PQ_DEFAULTS; n++) {
        keywords[n] = pq_defaults[n][0];
        values[n] = pq_defaults[n][1];
    }
    /* Of two values for a keyword libpq takes the later one. */
    for (size_t i = 0; i < given; i++, n++) {
        keywords[n] = params->keywords[i];
        values[n] = params->values[i];
    }
    keywords[n] = "client_encoding";
    values[n] = "UTF8";
    p->conn = PQconnectStartParams(keywords, values, 0);
    free(keywords);
    free(values);
    must(p->conn);
    if (PQstatus(p->conn) == CONNECTION_BAD)
        return words_of_connect(e, p->conn);
    /* The SQLSTATE of a refusal is only to be had from the verbose text. */
    PQsetErrorVerbosity(p->conn, PQERRORS_VERBOSE);
    PQsetNoticeReceiver(p->conn, pq_notice, p);
    return 0;
}

int
pq_connect_step(struct pq *p, int *wants, struct err *e)
{
    switch (PQconnectPoll(p->conn)) {
    case PGRES_POLLING_OK:
        if (PQsetnonblocking(p->conn, 1) != 0)
            return words_of_connect(e, p->conn);
        return 1;
    case PGRES_POLLING_READING:
        *wants = FD_READ;
        return 0;
    case PGRES_POLLING_WRITING:
        *wants = FD_WRITE;
        return 0;
    default:
        return words_of_connect(e, p->conn);
    }
}

const char *
pq_phase(const struct pq *p)
{
    return PQstatus(p->conn) == CONNECTION_STARTED ? "the connection was not accepted"
                                                   : "it was accepted and nothing answered";
}

int
pq_send(struct pq *p, const struct statement *st, int *wants, struct err *e)
{
    memset(&p->failure, 0, sizeof(p->failure));
    int ok = st->nparams
                 ? PQsendQueryParams(p->conn, st->sql, st->nparams, NULL, st->params, NULL, NULL, 0)
                 : PQsendQuery(p->conn, st->sql);
    if (!ok)
        return words_of_session(e, p->conn, &p->fatal);
    *wants = PQflush(p->conn) > 0 ? FD_READ | FD_WRITE : FD_READ;
    return 0;
}

/* Keeps the last result of the statement, or the first error, which is why the rest failed. */
static void
pq_keep(struct pq *p, PGresult *res)
{
    switch (PQresultStatus(res)) {
    case PGRES_COPY_IN:
    case PGRES_COPY_OUT:
    case PGRES_COPY_BOTH:
        /* libpq would give this result again and again; the session is of no use any more. */
        err_set(&p->failure, ERR_ARGUMENT, "COPY is not for this kind of session");
        break;
    case PGRES_BAD_RESPONSE:
    case PGRES_FATAL_ERROR:
        if (p->failure.code == 0) {
            words_of_result(&p->failure, res);
            if (p->failure.code == ERR_CONNECT && PQstatus(p->conn) != CONNECTION_BAD)
                p->failure.code = ERR_PROTOCOL;
        }
        break;
    default:
        PQclear(p->kept);
        p->kept = res;
        return;
    }
    PQclear(res);
}

static int
pq_returned(struct pq *p, struct result *out, struct err *e)
{
    out->pg = p->kept;
    p->kept = NULL;
    if (p->failure.code == 0 && out->pg)
        return 1;
    PQclear(out->pg);
    out->pg = NULL;
    if (p->failure.code == 0)
        return words_of_session(e, p->conn, &p->fatal);
    if (e)
        *e = p->failure;
    return p->failure.code;
}

int
pq_query_step(struct pq *p, int *wants, struct result *out, struct err *e)
{
    int unsent = PQflush(p->conn);
    /* Also after a failed flush: the server may have said why it went away. */
    PQconsumeInput(p->conn);
    while (!PQisBusy(p->conn)) {
        PGresult *res = PQgetResult(p->conn);
        if (!res)
            return pq_returned(p, out, e);
        ExecStatusType status = PQresultStatus(res);
        pq_keep(p, res);
        if (status == PGRES_COPY_IN || status == PGRES_COPY_OUT || status == PGRES_COPY_BOTH) {
            int code = pq_returned(p, out, e);
            pq_close(p);
            return code;
        }
    }
    *wants = unsent > 0 ? FD_READ | FD_WRITE : FD_READ;
    return 0;
}

int
pq_idle_step(struct pq *p, struct err *e)
{
    int ok = PQconsumeInput(p->conn);
    /* Reads the messages that came, so that a FATAL reaches pq_notice. */
    PQfreemem(PQnotifies(p->conn));
    if (ok && PQstatus(p->conn) == CONNECTION_OK)
        return 0;
    return words_of_session(e, p->conn, &p->fatal);
}

bool
pq_alive(const struct pq *p)
{
    return p->conn && PQstatus(p->conn) == CONNECTION_OK;
}

int
pq_socket(const struct pq *p)
{
    return PQsocket(p->conn);
}

void
pq_close(struct pq *p)
{
    PQclear(p->kept);
    p->kept = NULL;
    PQfinish(p->conn);
    p->conn = NULL;
}
