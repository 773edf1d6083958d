#include "moonrise/base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    int code;
    const char *name;
} err_names[] = {
    {ERR_IO, "io"},
    {ERR_FORMAT, "format"},
    {ERR_ARGUMENT, "argument"},
    {ERR_TIMEOUT, "timeout"},
    {ERR_CANCELLED, "cancelled"},
    {ERR_REFUSED, "refused"},
    {ERR_BUSY, "busy"},
    {ERR_NOTFOUND, "notfound"},
    {ERR_EXISTS, "exists"},
    {ERR_CONNECT, "connect"},
    {ERR_SQL, "sql"},
    {ERR_PROTOCOL, "protocol"},
    {ERR_VERSION, "version"},
    {ERR_SPACE, "space"},
    {ERR_PERMISSION, "permission"},
    {ERR_RUNNING, "running"},
    {ERR_STALE, "stale"},
    {ERR_LIMIT, "limit"},
    {ERR_CHILD, "child"},
    {ERR_HOSTKEY, "hostkey"},
    {ERR_UNKNOWNKEY, "unknownkey"},
};

#define ERR_NAMES (sizeof(err_names) / sizeof(err_names[0]))

static void
err_fill(struct err *e, int code, const char *fmt, va_list ap)
{
    memset(e, 0, sizeof(*e));
    e->code = code;
    vsnprintf(e->message, sizeof(e->message), fmt, ap);
}

int
err_set(struct err *e, int code, const char *fmt, ...)
{
    if (e) {
        va_list ap;
        va_start(ap, fmt);
        err_fill(e, code, fmt, ap);
        va_end(ap);
    }
    return code;
}

static int
err_code_of_errno(int sys)
{
    switch (sys) {
    case ENOENT:
    case ENOTDIR:
        return ERR_NOTFOUND;
    case EEXIST:
    case ENOTEMPTY:
        return ERR_EXISTS;
    case EACCES:
    case EPERM:
    case EROFS:
        return ERR_PERMISSION;
    case ENOSPC:
    case EDQUOT:
        return ERR_SPACE;
    default:
        return ERR_IO;
    }
}

int
err_sys(struct err *e, int sys, const char *fmt, ...)
{
    int code = err_code_of_errno(sys);
    if (!e)
        return code;
    va_list ap;
    va_start(ap, fmt);
    err_fill(e, code, fmt, ap);
    va_end(ap);
    e->sys_errno = sys;
    size_t used = strlen(e->message);
    char text[128];
    /* The GNU strerror_r returns its text; this is the one that _GNU_SOURCE selects. */
    snprintf(e->message + used, sizeof(e->message) - used, ": %s",
             strerror_r(sys, text, sizeof(text)));
    return code;
}

int
err_wrap(struct err *e, const char *fmt, ...)
{
    if (!e)
        return ERR_IO;
    char old[sizeof(e->message)];
    memcpy(old, e->message, sizeof(old));
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(e->message, sizeof(e->message), fmt, ap);
    va_end(ap);
    size_t used = strlen(e->message);
    snprintf(e->message + used, sizeof(e->message) - used, ": %s", old);
    return e->code;
}

int
err_hint(struct err *e, const char *fmt, ...)
{
    if (!e)
        return ERR_IO;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(e->hint, sizeof(e->hint), fmt, ap);
    va_end(ap);
    return e->code;
}

const char *
err_name(int code)
{
    for (size_t i = 0; i < ERR_NAMES; i++)
        if (err_names[i].code == code)
            return err_names[i].name;
    return "unknown";
}

int
err_code_of(const char *name)
{
    for (size_t i = 0; i < ERR_NAMES; i++)
        if (strcmp(err_names[i].name, name) == 0)
            return err_names[i].code;
    return 0;
}

void
err_must_failed(const char *cond, const char *file, int line)
{
    fprintf(stderr, "moonrise: bug: %s:%d: %s\n", file, line, cond);
    abort();
}
