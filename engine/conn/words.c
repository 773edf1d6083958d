#include "words.h"

#include "moonrise/base/str.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* What libpq writes where the system gave no errno. It speaks English: nobody sets a locale for
 * messages in this program. */
static const struct {
    const char *text;
    int sys;
} words_known[] = {
    {"server closed the connection unexpectedly", ECONNRESET},
    {"SSL connection has been closed unexpectedly", ECONNRESET},
    {"SSL SYSCALL error: EOF", ECONNRESET},
    {"could not translate host name", EDESTADDRREQ},
    {"could not look up", EDESTADDRREQ},
    {"no password supplied", EKEYREJECTED},
    {"password authentication", EKEYREJECTED},
    {"authentication method", EKEYREJECTED},
    {"SCRAM", EKEYREJECTED},
    {"certificate", EKEYREJECTED},
    {"does not support SSL", EKEYREJECTED},
    {"requires peer", EKEYREJECTED},
    {"requirepeer", EKEYREJECTED},
    {"out of memory", ENOMEM},
};

/* What this process lacks comes first: of several hosts that were tried it says something about none. */
static const int words_errnos[] = {
    EMFILE,     ENFILE,    ENOMEM,       ENOBUFS,      EADDRNOTAVAIL, ECONNREFUSED, ENOENT,
    ECONNRESET, EPIPE,     ECONNABORTED, EHOSTUNREACH, ENETUNREACH,   EHOSTDOWN,    ENETDOWN,
    EAGAIN,     ETIMEDOUT, EACCES,       EPERM,        ENOTSOCK,
};

static int
words_errno(const char *text)
{
    char words[128];
    for (size_t i = 0; i < sizeof(words_errnos) / sizeof(words_errnos[0]); i++)
        if (strstr(text, strerror_r(words_errnos[i], words, sizeof(words))))
            return words_errnos[i];
    for (size_t i = 0; i < sizeof(words_known) / sizeof(words_known[0]); i++)
        if (strstr(text, words_known[i].text))
            return words_known[i].sys;
    return 0;
}

/* A postmaster that cannot fork says so in words of before SQLSTATEs (report_fork_failure_to_client in
 * postmaster.c), in the language of its lc_messages; libpq shows them only where TLS was not asked for. */
static const char *const words_no_fork[] = {
    "server sent an error response during SSL exchange",
    "could not fork new process",
    "konnte neuen Prozess für Verbindung",
    "no se pudo lanzar el nuevo proceso",
    "pas pu lancer le nouveau processus",
    "fork del nuovo processo",
    "新しいプロセスをforkできません",
    "პროცესის ფორკის შეცდომა",
    "새 프로세스 할당(fork) 실패",
    "породить новый процесс для соединения",
    "kunde inte fork():a ny process",
    "не вдалося породити нові процеси",
    "无法为连接创建新进程",
    "无法为联接派生新进程",
    "無法為連線建立新行程",
};

/* Whether it was the server that lacked something; the reason that it gives reads like one of ours. */
static bool
words_of_no_fork(const char *text)
{
    for (size_t i = 0; i < sizeof(words_no_fork) / sizeof(words_no_fork[0]); i++)
        if (strstr(text, words_no_fork[i]))
            return true;
    return false;
}

/* Appends text as one line: line breaks and tabs become single spaces. */
static void
words_flatten(struct str *out, const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        char c = isspace((unsigned char)text[i]) ? ' ' : text[i];
        if (c != ' ' || (out->len > 0 && out->data[out->len - 1] != ' '))
            str_append(out, &c, 1);
    }
}

/* "LOCATION:  ProcessStartupPacket, postmaster.c:2349", whatever the first word is. */
static bool
words_is_location(const char *line, size_t len)
{
    char head[512], file[256];
    int number;
    if (len >= sizeof(head))
        return false;
    memcpy(head, line, len);
    head[len] = '\0';
    const char *rest = strstr(head, ":  ");
    return rest && sscanf(rest, ":  %*[A-Za-z0-9_], %255[^:]:%d", file, &number) == 2;
}

/* Finds "SEVERITY:  57P03: text" in a line: the place of the SQLSTATE, or NULL. */
static const char *
words_sqlstate(const char *line, size_t len)
{
    for (size_t i = 0; i + 10 <= len; i++) {
        if (memcmp(line + i, ":  ", 3) != 0 || memcmp(line + i + 8, ": ", 2) != 0)
            continue;
        size_t n = 0;
        while (n < 5 &&
               (isdigit((unsigned char)line[i + 3 + n]) || isupper((unsigned char)line[i + 3 + n])))
            n++;
        if (n == 5)
            return line + i + 3;
    }
    return NULL;
}

int
words_of_connect(struct err *e, const PGconn *conn)
{
    const char *text = PQerrorMessage(conn);
    char sqlstate[6] = "";
    struct str out = STR_INIT;
    while (*text) {
        size_t len = strcspn(text, "\n");
        const char *state = words_sqlstate(text, len);
        if (state) {
            /* "... failed: FATAL:  57P03: text": the code goes elsewhere, the text stays. */
            memcpy(sqlstate, state, 5);
            words_flatten(&out, text, (size_t)(state - text));
            words_flatten(&out, state + 7, len - (size_t)(state + 7 - text));
        } else if (!words_is_location(text, len)) {
            words_flatten(&out, text, len);
        }
        text += len + (text[len] == '\n');
        words_flatten(&out, " ", 1);
    }
    while (out.len > 0 && out.data[out.len - 1] == ' ')
        out.data[--out.len] = '\0';
    if (!sqlstate[0] && words_of_no_fork(out.data))
        memcpy(sqlstate, "53000", sizeof(sqlstate)); /* insufficient resources */
    int code = err_set(e, sqlstate[0] ? ERR_SQL : ERR_CONNECT, "%s", out.data);
    if (e) {
        memcpy(e->sqlstate, sqlstate, sizeof(sqlstate));
        e->sys_errno = sqlstate[0] ? 0 : words_errno(PQerrorMessage(conn));
    }
    str_free(&out);
    return code;
}

int
words_of_session(struct err *e, const PGconn *conn, const struct err *fatal)
{
    if (fatal->code != 0) {
        err_set(e, ERR_CONNECT, "%s", fatal->message);
        if (e)
            memcpy(e->sqlstate, fatal->sqlstate, sizeof(e->sqlstate));
        return ERR_CONNECT;
    }
    words_of_connect(e, conn);
    if (e) {
        e->code = ERR_CONNECT;
        if (!e->message[0])
            snprintf(e->message, sizeof(e->message), "the session is broken");
        if (e->sys_errno == 0)
            e->sys_errno = ECONNRESET;
    }
    return ERR_CONNECT;
}

int
words_of_result(struct err *e, const PGresult *res)
{
    const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);
    const char *severity = PQresultErrorField(res, PG_DIAG_SEVERITY);
    const char *primary = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);
    const char *detail = PQresultErrorField(res, PG_DIAG_MESSAGE_DETAIL);
    const char *hint = PQresultErrorField(res, PG_DIAG_MESSAGE_HINT);
    const char *parts[] = {severity ? severity : "",
                           severity ? ": " : "",
                           primary ? primary : PQresultErrorMessage(res),
                           detail ? " (" : "",
                           detail ? detail : "",
                           detail ? ")" : ""};
    struct str out = STR_INIT;
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
        words_flatten(&out, parts[i], strlen(parts[i]));
    int code = err_set(e, state ? ERR_SQL : ERR_CONNECT, "%s", out.data);
    if (e && state)
        snprintf(e->sqlstate, sizeof(e->sqlstate), "%s", state);
    else if (e)
        e->sys_errno = ECONNRESET;
    if (hint)
        err_hint(e, "%s", hint);
    str_free(&out);
    return code;
}
