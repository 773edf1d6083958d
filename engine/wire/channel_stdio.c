#include "channel.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"
#include "moonrise/loop/fd.h"
#include "moonrise/loop/timer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STDIO_READ_BYTES 65536

struct channel_stdio {
    struct channel base;
    int in, out;
    struct fdwatch *reading, *writing; /* NULL once that side is over */
    struct timer *ending;              /* tells the end on a later turn */
    struct str unsent;
    size_t sent; /* of unsent */
    struct err why;
    char buffer[STDIO_READ_BYTES];
};

static void
stdio_tell_end(void *arg)
{
    struct channel_stdio *c = arg;
    c->base.events.on_end(c->base.events.arg, &c->why);
}

static void
stdio_end(struct channel_stdio *c, const char *what, int sys)
{
    fdwatch_free(c->reading);
    fdwatch_free(c->writing);
    if (c->reading || c->writing) {
        char words[100];
        err_set(&c->why, ERR_CONNECT, "%s%s%s", what, sys ? ": " : "",
                sys ? strerror_r(sys, words, sizeof(words)) : "");
        timer_again(c->ending, 0, 0);
    }
    c->reading = c->writing = NULL;
}

static void
stdio_readable(void *arg, int events)
{
    struct channel_stdio *c = arg;
    (void)events;
    ssize_t n = read(c->in, c->buffer, sizeof(c->buffer));
    if (n > 0)
        c->base.events.on_bytes(c->base.events.arg, c->buffer, (size_t)n);
    else if (n == 0)
        stdio_end(c, "the other end has closed the connection", 0);
    else if (errno != EAGAIN && errno != EINTR)
        stdio_end(c, "cannot read from the other end", errno);
}

/* Writes what the pipe takes; the rest waits until it takes more. */
static void
stdio_flush(struct channel_stdio *c)
{
    while (c->sent < c->unsent.len) {
        ssize_t n = write(c->out, c->unsent.data + c->sent, c->unsent.len - c->sent);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN) {
            stdio_end(c, "cannot write to the other end", errno);
            return;
        }
        if (n < 0) {
            fdwatch_set(c->writing, FD_WRITE);
            return;
        }
        c->sent += (size_t)n;
    }
    str_clear(&c->unsent);
    c->sent = 0;
    fdwatch_set(c->writing, 0);
}

static void
stdio_writable(void *arg, int events)
{
    (void)events;
    stdio_flush(arg);
}

static void
stdio_write(struct channel *base, const void *bytes, size_t len)
{
    struct channel_stdio *c = (struct channel_stdio *)base;
    if (!c->writing)
        return;
    bool idle = c->unsent.len == 0;
    str_append(&c->unsent, bytes, len);
    if (idle)
        stdio_flush(c);
}

static size_t
stdio_unsent(const struct channel *base)
{
    const struct channel_stdio *c = (const struct channel_stdio *)base;
    return c->unsent.len - c->sent;
}

static int
stdio_pid(const struct channel *base)
{
    (void)base;
    return 0;
}

static void
stdio_free(struct channel *base)
{
    struct channel_stdio *c = (struct channel_stdio *)base;
    fdwatch_free(c->reading);
    fdwatch_free(c->writing);
    timer_free(c->ending);
    str_free(&c->unsent);
    if (c->in >= 0)
        close(c->in);
    if (c->out >= 0)
        close(c->out);
    free(c);
}

/* Takes the descriptors away from everybody else: a stray print, or a server started from here that
 * outlives us, must not get hold of the channel. */
static int
stdio_take(struct channel_stdio *c, struct err *e)
{
    c->in = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
    c->out = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    int rc = 0;
    if (c->in < 0 || c->out < 0 || null < 0 || dup2(null, STDIN_FILENO) < 0 ||
        dup2(STDERR_FILENO, STDOUT_FILENO) < 0)
        rc = err_sys(e, errno, "cannot take standard input and output");
    if (null >= 0)
        close(null);
    return rc;
}

int
channel_stdio(struct channel **out, struct loop *l, const struct channel_events *ev, struct err *e)
{
    struct channel_stdio *c = mem_zalloc(sizeof(*c));
    c->base = (struct channel){stdio_write, stdio_unsent, stdio_pid, stdio_free, *ev};
    str_init(&c->unsent);
    timer_start(&c->ending, l, 0, stdio_tell_end, c);
    timer_stop(c->ending);
    int rc = stdio_take(c, e);
    if (rc == 0) {
        struct fdwatch_spec spec = {c->in, FD_READ, stdio_readable, c};
        rc = fdwatch_start(&c->reading, l, &spec, e);
    }
    if (rc == 0) {
        struct fdwatch_spec spec = {c->out, 0, stdio_writable, c};
        rc = fdwatch_start(&c->writing, l, &spec, e);
    }
    if (rc != 0) {
        stdio_free(&c->base);
        return rc;
    }
    *out = &c->base;
    return 0;
}
