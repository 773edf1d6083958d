#include "moonrise/pg/pidfile.h"

#include "moonrise/base/err.h"
#include "moonrise/base/io.h"
#include "moonrise/base/path.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { PIDFILE_LINES = 8, PIDFILE_MAX_BYTES = 16384 };

/* Cuts `text` into lines in place; returns how many there were (at most PIDFILE_LINES). */
static int
cut_lines(char *text, const char **lines)
{
    int n = 0;
    while (n < PIDFILE_LINES && *text) {
        char *end = strchrnul(text, '\n');
        bool last = *end == '\0';
        *end = '\0';
        lines[n++] = text;
        if (last)
            break;
        text = end + 1;
    }
    return n;
}

static int
parse_number(int64_t *out, const char *text, struct err *e)
{
    char *end;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (end == text || errno != 0 || *end != '\0')
        return err_set(e, ERR_FORMAT, "\"%.40s\" is no number", text);
    *out = v;
    return 0;
}

/* "  5432001         7" */
static int
parse_shmem(struct pidfile *out, const char *text, struct err *e)
{
    char *rest, *end;
    errno = 0;
    out->shmem_key = strtoull(text, &rest, 10);
    out->shmem_id = strtoull(rest, &end, 10);
    if (rest == text || end == rest || errno != 0 || end[strspn(end, " ")] != '\0')
        return err_set(e, ERR_FORMAT, "\"%.40s\" is no shared memory segment", text);
    return 0;
}

static int
parse_numbers(struct pidfile *out, const char *const *lines, struct err *e)
{
    int64_t pid, port = 0;
    int rc = parse_number(&pid, lines[0], e);
    if (rc == 0 && (pid == 0 || pid > INT_MAX || pid < -INT_MAX))
        rc = err_set(e, ERR_FORMAT, "%lld is no process id", (long long)pid);
    if (rc == 0 && out->lines > 2)
        rc = parse_number(&out->start_s, lines[2], e);
    if (rc == 0 && out->lines > 3)
        rc = parse_number(&port, lines[3], e);
    if (rc == 0 && (port < 0 || port > 65535))
        rc = err_set(e, ERR_FORMAT, "%lld is no port", (long long)port);
    /* A server that has got no further than its lock file may have this line empty. */
    if (rc == 0 && out->lines > 6 && lines[6][0] != '\0')
        rc = parse_shmem(out, lines[6], e);
    if (rc == 0) {
        out->pid = (int)pid;
        out->port = (int)port;
    }
    return rc;
}

static char *
trimmed(const char *text)
{
    size_t len = strlen(text);
    while (len > 0 && text[len - 1] == ' ')
        len--;
    return mem_printf("%.*s", (int)len, text);
}

int
pidfile_parse(struct pidfile *out, const char *text, size_t len, struct err *e)
{
    memset(out, 0, sizeof(*out));
    if (len > PIDFILE_MAX_BYTES)
        return err_set(e, ERR_FORMAT, "postmaster.pid: %zu bytes", len);
    struct str copy = STR_INIT;
    str_append(&copy, text, len);
    char *bytes = str_take(&copy);
    const char *lines[PIDFILE_LINES] = {"", "", "", "", "", "", "", ""};
    out->lines = cut_lines(bytes, lines);
    int rc = parse_numbers(out, lines, e);
    if (rc == 0) {
        out->datadir = mem_strdup(lines[1]);
        out->socket_dir = mem_strdup(lines[4]);
        out->listen = mem_strdup(lines[5]);
        out->status = trimmed(lines[7]);
    } else {
        err_wrap(e, "postmaster.pid");
        memset(out, 0, sizeof(*out));
    }
    free(bytes);
    return rc;
}

int
pidfile_read(struct pidfile *out, const char *datadir, struct err *e)
{
    memset(out, 0, sizeof(*out));
    struct str text = STR_INIT;
    char *path = path_join(datadir, "postmaster.pid");
    int rc = io_read_file(&text, path, PIDFILE_MAX_BYTES, e);
    if (rc == ERR_LIMIT)
        rc = err_set(e, ERR_FORMAT, "%s is no postmaster.pid: too long", path);
    else if (rc == 0 && (rc = pidfile_parse(out, text.data, text.len, e)) < 0)
        err_wrap(e, "%s", datadir);
    free(path);
    str_free(&text);
    return rc;
}

void
pidfile_done(struct pidfile *p)
{
    free(p->datadir);
    free(p->socket_dir);
    free(p->listen);
    free(p->status);
    memset(p, 0, sizeof(*p));
}
