#include "evidence.h"

#include "moonrise/base/err.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

static const char *const evidence_names[] = {
    [EVIDENCE_NONE] = "ok",
    [EVIDENCE_REFUSED] = "refused",
    [EVIDENCE_RESET] = "reset",
    [EVIDENCE_TIMEOUT] = "timeout",
    [EVIDENCE_UNRESOLVED] = "unresolved",
    [EVIDENCE_UNREACHABLE] = "unreachable",
    [EVIDENCE_AUTHENTICATION] = "authentication",
    [EVIDENCE_STARTING] = "starting",
    [EVIDENCE_RECOVERING] = "recovering",
    [EVIDENCE_SHUTTING_DOWN] = "shutting_down",
    [EVIDENCE_NOT_YET] = "not_yet",
    [EVIDENCE_TOO_MANY] = "too_many",
    [EVIDENCE_SQLSTATE] = "sqlstate",
    [EVIDENCE_WRONG_SYSTEM] = "wrong_system",
    [EVIDENCE_NO_NEW_SESSION] = "no_new_session",
    [EVIDENCE_SHORTAGE] = "shortage",
};

const char *
evidence_name(enum evidence ev)
{
    size_t i = (size_t)ev;
    return i < sizeof(evidence_names) / sizeof(evidence_names[0]) ? evidence_names[i] : "unknown";
}

/* 57P03 (cannot connect now) stands for four states that mean very different things, and only the text
 * tells them apart. It comes in the language of the server's lc_messages. These are pieces of the
 * sentences that the translations of PostgreSQL 13 to 16 have; the longer one of two that share a
 * beginning comes first. */
static const struct {
    const char *text;
    enum evidence ev;
} evidence_words[] = {
    {"is starting up", EVIDENCE_STARTING},
    {"in recovery mode", EVIDENCE_RECOVERING},
    {"is shutting down", EVIDENCE_SHUTTING_DOWN},
    {"not yet accepting", EVIDENCE_NOT_YET},
    {"not accepting", EVIDENCE_NOT_YET},
    /* German */
    {"Datenbanksystem startet", EVIDENCE_STARTING},
    {"im Wiederherstellungsmodus", EVIDENCE_RECOVERING},
    {"hrt herunter", EVIDENCE_SHUTTING_DOWN},
    {"keine Verbindungen an", EVIDENCE_NOT_YET},
    /* Spanish */
    {"inici\xc3\xa1ndose", EVIDENCE_STARTING},
    {"modo de recuperaci", EVIDENCE_RECOVERING},
    {"apag\xc3\xa1ndose", EVIDENCE_SHUTTING_DOWN},
    {"aceptando conexiones", EVIDENCE_NOT_YET},
    /* French */
    {"se lance", EVIDENCE_STARTING},
    {"en cours de restauration", EVIDENCE_RECOVERING},
    {"s'arr\xc3\xaate", EVIDENCE_SHUTTING_DOWN},
    {"n'accepte pas", EVIDENCE_NOT_YET},
    /* Italian */
    {"si sta avviando", EVIDENCE_STARTING},
    {"di ripristino", EVIDENCE_RECOVERING},
    {"si sta spegnendo", EVIDENCE_SHUTTING_DOWN},
    {"non accetta", EVIDENCE_NOT_YET},
    /* Japanese */
    {"起動処理中", EVIDENCE_STARTING},
    {"リカバリモード", EVIDENCE_RECOVERING},
    {"シャットダウンしています", EVIDENCE_SHUTTING_DOWN},
    {"受け付けていません", EVIDENCE_NOT_YET},
    /* Georgian */
    {"სისტემის გაშვება", EVIDENCE_STARTING},
    {"აღდგენის რეჟიმ", EVIDENCE_RECOVERING},
    {"სისტემა ითიშება", EVIDENCE_SHUTTING_DOWN},
    {"მიერთებებს არ იღებს", EVIDENCE_NOT_YET},
    /* Korean */
    {"새로 가동 중", EVIDENCE_STARTING},
    {"자동 복구 작업 중", EVIDENCE_RECOVERING},
    {"시스템이 중지 중", EVIDENCE_SHUTTING_DOWN},
    {"허용하지 않습니다", EVIDENCE_NOT_YET},
    /* Russian */
    {"система баз данных запускается", EVIDENCE_STARTING},
    {"режиме восстановления", EVIDENCE_RECOVERING},
    {"система баз данных останавливается", EVIDENCE_SHUTTING_DOWN},
    {"не принимает подключения", EVIDENCE_NOT_YET},
    /* Swedish */
    {"databassystemet startar upp", EVIDENCE_STARTING},
    {"terst\xc3\xa4llningsl\xc3\xa4ge", EVIDENCE_RECOVERING},
    {"databassystemet st\xc3\xa4nger ner", EVIDENCE_SHUTTING_DOWN},
    {"inte emot anslutningar", EVIDENCE_NOT_YET},
    /* Ukrainian */
    {"система бази даних запускається", EVIDENCE_STARTING},
    {"режимі відновлення", EVIDENCE_RECOVERING},
    {"система бази даних завершує роботу", EVIDENCE_SHUTTING_DOWN},
    {"не приймає підключення", EVIDENCE_NOT_YET},
    /* Chinese */
    {"正在启动", EVIDENCE_STARTING},
    {"启动中", EVIDENCE_STARTING},
    {"恢复模式", EVIDENCE_RECOVERING},
    {"正在关闭", EVIDENCE_SHUTTING_DOWN},
    {"停止中", EVIDENCE_SHUTTING_DOWN},
    {"接受连接", EVIDENCE_NOT_YET},
    {"正在啟動", EVIDENCE_STARTING},
    {"復原模式", EVIDENCE_RECOVERING},
    {"正在關閉", EVIDENCE_SHUTTING_DOWN},
    {"接受連線", EVIDENCE_NOT_YET},
};

enum evidence
evidence_of_words(const char *message)
{
    for (size_t i = 0; i < sizeof(evidence_words) / sizeof(evidence_words[0]); i++)
        if (strstr(message, evidence_words[i].text))
            return evidence_words[i].ev;
    /* It lives and lets nobody in yet, whatever language or encoding that is. */
    return EVIDENCE_STARTING;
}

static enum evidence
evidence_of_sqlstate(const struct err *e)
{
    if (strncmp(e->sqlstate, "28", 2) == 0)
        return EVIDENCE_AUTHENTICATION;
    if (strcmp(e->sqlstate, "57P03") == 0)
        return evidence_of_words(e->message);
    if (strcmp(e->sqlstate, "57P01") == 0)
        return EVIDENCE_SHUTTING_DOWN;
    /* Another process of the server crashed: it ends all sessions and repairs itself, or not. */
    if (strcmp(e->sqlstate, "57P02") == 0)
        return EVIDENCE_RESET;
    return strcmp(e->sqlstate, "53300") == 0 ? EVIDENCE_TOO_MANY : EVIDENCE_SQLSTATE;
}

static enum evidence
evidence_of_errno(int sys)
{
    switch (sys) {
    case ECONNREFUSED:
    case ENOENT:
        return EVIDENCE_REFUSED;
    case EDESTADDRREQ:
        return EVIDENCE_UNRESOLVED;
    case EHOSTUNREACH:
    case ENETUNREACH:
    case EHOSTDOWN:
    case ENETDOWN:
        return EVIDENCE_UNREACHABLE;
    case EMFILE:
    case ENFILE:
    case ENOMEM:
    case ENOBUFS:
    case EADDRNOTAVAIL: /* no port of ours is free */
        return EVIDENCE_SHORTAGE;
    case ETIMEDOUT:
    case EAGAIN: /* a socket file whose queue is full: nobody accepts */
        return EVIDENCE_TIMEOUT;
    case EKEYREJECTED:
    case EACCES:
    case EPERM:
        return EVIDENCE_AUTHENTICATION;
    default:
        return EVIDENCE_RESET;
    }
}

enum evidence
evidence_of(const struct err *e)
{
    if (e->code == ERR_TIMEOUT)
        return EVIDENCE_TIMEOUT;
    if (e->sqlstate[0])
        return evidence_of_sqlstate(e);
    return evidence_of_errno(e->sys_errno);
}
