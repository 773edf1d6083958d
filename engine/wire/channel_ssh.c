#include "channel.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"
#include "moonrise/loop/fd.h"
#include "moonrise/loop/job.h"
#include "moonrise/wire/ssh.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define SSH_READ_BYTES 65536

struct channel_to_host {
    struct channel base;
    struct loop *l;
    struct job *connecting; /* NULL once that has ended */
    struct ssh *ssh;        /* NULL before, and when it failed */
    struct fdwatch *watch;  /* NULL before, and after the end */
    struct str unsent;
    size_t sent; /* of unsent */
    bool freed;  /* while connecting: the job's end frees it */
    char *host, **argv;
    int64_t connect_ms;
    struct err why; /* of the job */
    char buffer[SSH_READ_BYTES];
};

static void
host_dispose(struct channel_to_host *c)
{
    fdwatch_free(c->watch);
    ssh_close(c->ssh);
    free(c->argv);
    free(c->host);
    str_free(&c->unsent);
    free(c);
}

static void
host_end(struct channel_to_host *c)
{
    struct err why;
    fdwatch_free(c->watch);
    c->watch = NULL;
    ssh_why(c->ssh, &why);
    if (why.code == 0)
        err_set(&why, ERR_CHILD, "ssh to %s: the program has ended", c->host);
    c->base.events.on_end(c->base.events.arg, &why);
}

/* Writes what the session takes; the rest waits until it takes more. One that takes nothing any more is
 * read to its end. */
static void
host_flush(struct channel_to_host *c)
{
    while (c->sent < c->unsent.len) {
        ssize_t n = send(ssh_fd(c->ssh), c->unsent.data + c->sent, c->unsent.len - c->sent,
                         MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n >= 0)
            c->sent += (size_t)n;
        else if (errno == EAGAIN)
            break;
        else if (errno != EINTR)
            c->sent = c->unsent.len;
    }
    bool more = c->sent < c->unsent.len;
    if (!more) {
        str_clear(&c->unsent);
        c->sent = 0;
    }
    fdwatch_set(c->watch, more ? FD_READ | FD_WRITE : FD_READ);
}

static void
host_ready(void *arg, int events)
{
    struct channel_to_host *c = arg;
    if (events & FD_WRITE)
        host_flush(c);
    if (!(events & FD_READ))
        return;
    ssize_t n = recv(ssh_fd(c->ssh), c->buffer, sizeof(c->buffer), MSG_DONTWAIT);
    if (n > 0)
        c->base.events.on_bytes(c->base.events.arg, c->buffer, (size_t)n); /* may free it */
    else if (n == 0 || (errno != EAGAIN && errno != EINTR))
        host_end(c);
}

static void
host_connect(struct job_self *self, void *arg)
{
    struct channel_to_host *c = arg;
    struct ssh_spec spec = {c->host, (const char *const *)c->argv, c->connect_ms, &self->cancel};
    ssh_open(&c->ssh, &spec, &c->why);
}

static void
host_connected(void *arg)
{
    struct channel_to_host *c = arg;
    c->connecting = NULL;
    if (c->freed) {
        host_dispose(c);
        return;
    }
    int rc = c->ssh ? 0 : c->why.code;
    if (rc == 0) {
        struct fdwatch_spec spec = {ssh_fd(c->ssh), FD_READ, host_ready, c};
        rc = fdwatch_start(&c->watch, c->l, &spec, &c->why);
    }
    if (rc != 0) {
        struct err why = c->why;
        c->base.events.on_end(c->base.events.arg, &why);
        return;
    }
    host_flush(c);
    if (c->base.events.on_up)
        c->base.events.on_up(c->base.events.arg);
}

static void
host_write(struct channel *base, const void *bytes, size_t len)
{
    struct channel_to_host *c = (struct channel_to_host *)base;
    if (!c->watch && !c->connecting)
        return;
    bool idle = c->unsent.len == 0;
    str_append(&c->unsent, bytes, len);
    if (c->watch && idle)
        host_flush(c);
}

static size_t
host_unsent(const struct channel *base)
{
    const struct channel_to_host *c = (const struct channel_to_host *)base;
    return c->unsent.len - c->sent;
}

static int
host_pid(const struct channel *base)
{
    (void)base;
    return 0;
}

static void
host_free(struct channel *base)
{
    struct channel_to_host *c = (struct channel_to_host *)base;
    if (!c->connecting) {
        host_dispose(c);
        return;
    }
    c->freed = true;
    job_cancel(c->connecting);
}

/* The loop has gone away while it was connecting, after the channel was freed. */
static void
host_left(void *arg)
{
    host_dispose(arg);
}

int
channel_ssh(struct channel **out, struct loop *l, const struct channel_host *host,
            const struct channel_events *ev, struct err *e)
{
    struct channel_to_host *c = mem_zalloc(sizeof(*c));
    c->base = (struct channel){host_write, host_unsent, host_pid, host_free, *ev};
    c->l = l;
    c->host = mem_strdup(host->name);
    c->argv = mem_words(host->argv);
    c->connect_ms = host->connect_ms;
    str_init(&c->unsent);
    struct job_spec spec = {
        .run = host_connect, .done = host_connected, .left = host_left, .arg = c};
    int rc = job_start(&c->connecting, l, &spec, e);
    if (rc != 0) {
        host_dispose(c);
        return rc;
    }
    *out = &c->base;
    return 0;
}
