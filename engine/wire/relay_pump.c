#include "moonrise/wire/relay.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define FLOW_BYTES (256 * 1024)
#define TICK_MS    100 /* how soon it is noticed that it shall stop */

/* One direction. What was read is written before more is read. */
struct flow {
    int in, out;
    char *bytes;
    size_t from, len;
    bool ended;
};

static bool
would_block(void)
{
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
}

/* Its reader sees the end. */
static void
flow_end(struct flow *f)
{
    f->ended = true;
    if (shutdown(f->out, SHUT_WR) != 0 && errno == ENOTSOCK)
        close(f->out);
}

static int
flow_read(struct flow *f, struct err *e)
{
    ssize_t n = read(f->in, f->bytes, FLOW_BYTES);
    if (n < 0 && would_block())
        return 0;
    if (n < 0 && errno != ECONNRESET)
        return err_set(e, ERR_CONNECT, "a stream broke while it was read");
    f->from = 0;
    f->len = n > 0 ? (size_t)n : 0;
    if (n <= 0)
        flow_end(f);
    return 0;
}

static int
flow_write(struct flow *f, struct err *e)
{
    ssize_t n = write(f->out, f->bytes + f->from, f->len);
    if (n < 0 && would_block())
        return 0;
    if (n < 0 && errno != EPIPE && errno != ECONNRESET)
        return err_set(e, ERR_CONNECT, "a stream broke while it was written");
    /* Its reader has gone; why may be among what is still to come from there. */
    if (n < 0) {
        flow_end(f);
        return 0;
    }
    f->from += (size_t)n;
    f->len -= (size_t)n;
    return 0;
}

static int
flow_turn(struct flow *f, struct err *e)
{
    int rc = f->ended || f->len > 0 ? 0 : flow_read(f, e);
    if (rc == 0 && !f->ended && f->len > 0)
        rc = flow_write(f, e);
    return rc;
}

static struct pollfd
flow_waits_for(const struct flow *f)
{
    if (f->ended)
        return (struct pollfd){.fd = -1};
    if (f->len > 0)
        return (struct pollfd){.fd = f->out, .events = POLLOUT};
    return (struct pollfd){.fd = f->in, .events = POLLIN};
}

static void
unblock(const struct relay_end *end)
{
    fcntl(end->in, F_SETFL, fcntl(end->in, F_GETFL) | O_NONBLOCK);
    fcntl(end->out, F_SETFL, fcntl(end->out, F_GETFL) | O_NONBLOCK);
}

int
relay_pump(const struct relay_end *a, const struct relay_end *b, const atomic_bool *stop,
           struct err *e)
{
    struct flow flows[2] = {{.in = a->in, .out = b->out, .bytes = mem_alloc(FLOW_BYTES)},
                            {.in = b->in, .out = a->out, .bytes = mem_alloc(FLOW_BYTES)}};
    int rc = 0;
    unblock(a);
    unblock(b);
    while (rc == 0 && !(flows[0].ended && flows[1].ended)) {
        struct pollfd fds[2] = {flow_waits_for(&flows[0]), flow_waits_for(&flows[1])};
        if (stop && atomic_load(stop))
            rc = err_set(e, ERR_CANCELLED, "the relay was closed");
        else if (poll(fds, 2, stop ? TICK_MS : -1) < 0 && errno != EINTR)
            rc = err_sys(e, errno, "waiting for a stream");
        for (int i = 0; rc == 0 && i < 2; i++)
            rc = flow_turn(&flows[i], e);
    }
    free(flows[0].bytes);
    free(flows[1].bytes);
    return rc;
}
