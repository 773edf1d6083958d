#include "ssh_pump.h"

#include "moonrise/loop/loop.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define PUMP_WORD_BYTES 400
/* A program gets this long to end after its input has: longer than an agent gives its work. */
#define PUMP_GRACE_MS 12000
/* Between the end of its output and its own end, until the reader is told. */
#define PUMP_LINGER_MS 1000
#define PUMP_WAIT_MS   1000
/* Of the session's socket before the other one gets its turn: libssh reads 4096 bytes at a time. */
#define PUMP_READS 16

static void
pump_complained(struct pump *p, const void *bytes, size_t len)
{
    str_append(&p->word, bytes, len);
    if (p->word.len <= PUMP_WORD_BYTES)
        return;
    memmove(p->word.data, p->word.data + p->word.len - PUMP_WORD_BYTES, PUMP_WORD_BYTES);
    p->word.len = PUMP_WORD_BYTES;
    p->word.data[p->word.len] = '\0';
}

/* How much of it the socket took. */
static size_t
pump_send(struct pump *p, const char *bytes, size_t len)
{
    if (p->gone || len == 0)
        return len;
    ssize_t n = send(p->fd, bytes, len, MSG_NOSIGNAL);
    if (n >= 0)
        return (size_t)n;
    return errno == EAGAIN || errno == EINTR ? 0 : len; /* nobody will read it */
}

/* libssh hands over all it holds of one stream, and keeps what is not taken. */
static int
pump_said(ssh_session s, ssh_channel c, void *bytes, uint32_t len, int is_stderr, void *arg)
{
    struct pump *p = arg;
    (void)s, (void)c;
    if (is_stderr) {
        pump_complained(p, bytes, len);
        return (int)len;
    }
    size_t taken = p->out_len > 0 ? 0 : pump_send(p, bytes, len);
    p->held = taken < len;
    return (int)taken;
}

static void
pump_ended(ssh_session s, ssh_channel c, int exit_code, void *arg)
{
    (void)s, (void)c;
    ((struct pump *)arg)->exit_code = exit_code;
}

static void
pump_killed(ssh_session s, ssh_channel c, const char *signal, int core, const char *text,
            const char *lang, void *arg)
{
    struct pump *p = arg;
    (void)s, (void)c, (void)core, (void)text, (void)lang;
    snprintf(p->signal, sizeof(p->signal), "%s", signal);
}

static void
pump_closed(ssh_session s, ssh_channel c, void *arg)
{
    (void)s, (void)c;
    ((struct pump *)arg)->closed = true;
}

void
pump_init(struct pump *p, struct ssh_link *l, int fd)
{
    *p = (struct pump){.link = l, .fd = fd, .exit_code = -1};
    p->callbacks = (struct ssh_channel_callbacks_struct){
        .userdata = p,
        .channel_data_function = pump_said,
        .channel_close_function = pump_closed,
        .channel_exit_status_function = pump_ended,
        .channel_exit_signal_function = pump_killed,
    };
    ssh_callbacks_init(&p->callbacks);
    str_init(&p->word);
    p->in = mem_alloc(PUMP_BYTES);
    p->out = mem_alloc(PUMP_BYTES);
}

void
pump_done(struct pump *p)
{
    free(p->in);
    free(p->out);
    str_free(&p->word);
}

/* From libssh to the socket, as far as that takes it. */
static void
pump_deliver(struct pump *p)
{
    for (;;) {
        size_t taken = pump_send(p, p->out + p->out_at, p->out_len);
        p->out_at += taken;
        p->out_len -= taken;
        if (p->out_len > 0 || !p->held)
            return;
        p->held = false;
        int n = ssh_channel_poll(p->link->channel, 0) > 0
                    ? ssh_channel_read_nonblocking(p->link->channel, p->out, PUMP_BYTES, 0)
                    : 0;
        if (n <= 0)
            return;
        p->held = true;
        p->out_at = 0;
        p->out_len = (size_t)n;
    }
}

static bool
pump_may_take(const struct pump *p)
{
    return !p->in_over && !p->closed && p->in_len == 0 &&
           !(ssh_get_status(p->link->session) & SSH_WRITE_PENDING) &&
           ssh_channel_window_size(p->link->channel) > 0;
}

/* From the socket to libssh: as much as the window lets through, since libssh would wait for more. */
static void
pump_take(struct pump *p)
{
    if (pump_may_take(p)) {
        size_t room = ssh_channel_window_size(p->link->channel);
        ssize_t n = recv(p->fd, p->in, room < PUMP_BYTES ? room : PUMP_BYTES, 0);
        if (n > 0) {
            p->in_at = 0;
            p->in_len = (size_t)n;
        } else if (n == 0 || (errno != EAGAIN && errno != EINTR && errno != ECONNRESET)) {
            p->in_over = true;
        }
    }
    if (p->in_len > 0 && !p->closed) {
        int n = ssh_channel_write(p->link->channel, p->in + p->in_at, (uint32_t)p->in_len);
        if (n > 0) {
            p->in_at += (size_t)n;
            p->in_len -= (size_t)n;
        }
    }
    if (p->in_over && p->in_len == 0 && !p->told && !p->closed)
        p->told = ssh_channel_send_eof(p->link->channel) != SSH_ERROR;
}

static bool
pump_is_broken(const struct pump *p)
{
    return (ssh_get_status(p->link->session) & (SSH_CLOSED | SSH_CLOSED_ERROR)) != 0;
}

/* Waits until something can go on; false when the connection is broken. */
static bool
pump_turn(struct pump *p, ssh_event event)
{
    if (pump_is_broken(p))
        return false;
    int flags = ssh_get_poll_flags(p->link->session);
    struct pollfd fds[2] = {{.fd = ssh_get_fd(p->link->session), .events = POLLIN},
                            {.fd = p->gone ? -1 : p->fd}};
    bool take = pump_may_take(p);
    if (flags & SSH_WRITE_PENDING)
        fds[0].events |= POLLOUT;
    if (take)
        fds[1].events |= POLLIN;
    if (p->out_len > 0 || p->held)
        fds[1].events |= POLLOUT;
    /* Of a socket that was closed all is there at once. */
    if (poll(fds, 2, p->gone && take ? 0 : PUMP_WAIT_MS) < 0 && errno != EINTR)
        return false;
    if (fds[1].revents & (POLLHUP | POLLERR))
        p->gone = true;
    int rc = fds[0].revents ? SSH_OK : SSH_AGAIN;
    for (int i = 0; i < PUMP_READS && rc != SSH_AGAIN && rc != SSH_ERROR; i++)
        rc = ssh_event_dopoll(event, 0);
    if (rc == SSH_ERROR)
        return false;
    return !pump_is_broken(p);
}

/* Pumps until there is nothing more to do: true, or false when the connection is broken. */
static bool
pump_loop(struct pump *p, ssh_event event)
{
    int64_t silent_ms = 0, gone_ms = 0;
    bool shut = false;
    p->held = true; /* what came before there were callbacks */
    for (;;) {
        pump_deliver(p);
        pump_take(p);
        bool delivered = p->out_len == 0 && !p->held;
        if (p->closed && delivered)
            return true;
        if (delivered && !shut && ssh_channel_is_eof(p->link->channel)) {
            silent_ms = silent_ms ? silent_ms : clock_ms();
            shut = clock_ms() - silent_ms >= PUMP_LINGER_MS;
            if (shut)
                shutdown(p->fd, SHUT_WR);
        }
        if (p->gone) {
            gone_ms = gone_ms ? gone_ms : clock_ms();
            if (clock_ms() - gone_ms >= PUMP_GRACE_MS) {
                ssh_channel_request_send_signal(p->link->channel, "KILL");
                return true;
            }
        }
        if (!pump_turn(p, event))
            return false;
    }
}

/* The last line of what it said on standard error, with printing characters only. */
static const char *
pump_last_line(struct str *word)
{
    while (word->len > 0 && (unsigned char)word->data[word->len - 1] <= ' ')
        word->data[--word->len] = '\0';
    for (size_t i = 0; i < word->len; i++)
        if ((unsigned char)word->data[i] < ' ' && word->data[i] != '\n')
            word->data[i] = ' ';
    const char *line = strrchr(word->data, '\n');
    return line ? line + 1 : word->data;
}

static void
pump_why(struct pump *p, bool whole, struct err *why)
{
    const char *line = pump_last_line(&p->word), *colon = *line ? ": " : "";
    if (p->signal[0])
        err_set(why, ERR_CHILD, "the program was ended by signal %s%s%s", p->signal, colon, line);
    else if (p->exit_code > 0)
        err_set(why, p->exit_code == 127 ? ERR_NOTFOUND : ERR_CHILD,
                "the program ended with code %d%s%s", p->exit_code, colon, line);
    else if (p->exit_code < 0 || !whole)
        err_set(why, ERR_CONNECT, "the connection broke: %s%s%s", ssh_get_error(p->link->session),
                colon, line);
    else
        *why = (struct err){0};
    if (why->code != 0)
        ssh_link_wrap(p->link, why);
}

void
pump_run(struct pump *p, struct err *why)
{
    ssh_event event = ssh_event_new();
    must(event && ssh_event_add_session(event, p->link->session) == SSH_OK);
    bool whole = pump_loop(p, event);
    pump_why(p, whole, why);
    ssh_event_remove_session(event, p->link->session);
    ssh_event_free(event);
}
