#include "ssh_link.h"

#include "ssh_gate.h"

#include "moonrise/loop/loop.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

/* Between attempts at a server that drops us before its greeting: soon at first, then less often. */
#define RETRY_FIRST_MS 60
#define RETRY_LAST_MS  1500

/* Of its own, so that it is no ERR_*: the server has dropped the connection before it greeted, or a key was
 * read that somebody is writing. */
#define SSH_LINK_AGAIN 1

/* libssh writes a public key that is not beside its private one, and not in one piece. */
#define SSH_LINK_UNREAD_TRIES 5

static const char *const ssh_link_phases[] = {
    [SSH_LINK_TURN] = "other connections to it are still on their way",
    [SSH_LINK_RESOLVE] = "its name was not resolved",
    [SSH_LINK_CONNECT] = "no connection",
    [SSH_LINK_GREETING] = "connected, but the ssh server there has not greeted",
    [SSH_LINK_KEYS] = "the ssh server there greets, but does not agree on keys",
    [SSH_LINK_LOGIN] = "the authentication does not end",
    [SSH_LINK_CHANNEL] = "no channel is opened",
    [SSH_LINK_PROGRAM] = "the program is not started",
};

int
ssh_link_late(int phase, int64_t limit_ms, struct err *e)
{
    return err_set(e, ERR_TIMEOUT, "%s within %lld ms", ssh_link_phases[phase],
                   (long long)limit_ms);
}

int
ssh_link_due(const struct ssh_link *l, struct err *e)
{
    if (atomic_load(l->stop))
        return err_set(e, ERR_CANCELLED, "cancelled");
    if (clock_ms() - l->begun_ms >= l->limit_ms)
        return ssh_link_late(atomic_load(l->phase), l->limit_ms, e);
    return 0;
}

int
ssh_link_wrap(const struct ssh_link *l, struct err *e)
{
    return err_wrap(e, "ssh to %s%s", l->host, l->at);
}

/* Waits a little for what libssh waits for. */
static int
ssh_link_wait(const struct ssh_link *l, struct err *e)
{
    int rc = ssh_link_due(l, e), flags = ssh_get_poll_flags(l->session);
    struct pollfd p = {.fd = ssh_get_fd(l->session), .events = POLLIN};
    /* sshd keeps a second small packet back until the first is acknowledged, which takes the kernel 40 ms
     * where there is nothing to send with it. The option does not last; a pipe of a proxy has none. */
    const int yes = 1;
    setsockopt(p.fd, IPPROTO_TCP, TCP_QUICKACK, &yes, sizeof(yes));
    if (flags & SSH_WRITE_PENDING)
        p.events |= POLLOUT;
    if (rc == 0)
        poll(&p, 1, SSH_LINK_SLICE_MS);
    return rc;
}

static int
ssh_link_failed(const struct ssh_link *l, const char *what, struct err *e)
{
    return err_set(e, ERR_CONNECT, "%s: %s", what, ssh_get_error(l->session));
}

/* Whether a ProxyCommand or ProxyJump makes the connection: then libssh starts it. */
static bool
ssh_link_is_proxied(const struct ssh_link *l)
{
    char *command = NULL;
    bool is = ssh_options_get(l->session, SSH_OPTIONS_PROXYCOMMAND, &command) == SSH_OK;
    ssh_string_free_char(command);
    return is;
}

/* Up to the agreement on keys. SSH_LINK_AGAIN when the server hung up before it greeted. */
static int
ssh_link_greet(struct ssh_link *l, struct err *e)
{
    int fd = -1, rc = 0;
    if (!ssh_link_is_proxied(l))
        rc = ssh_link_connect_tcp(l, &fd, e);
    if (rc == 0 && fd >= 0)
        must(ssh_options_set(l->session, SSH_OPTIONS_FD, &fd) == SSH_OK);
    if (rc != 0)
        return rc;
    atomic_store(l->phase, SSH_LINK_GREETING);
    while ((rc = ssh_connect(l->session)) == SSH_AGAIN) {
        if (ssh_get_serverbanner(l->session))
            atomic_store(l->phase, SSH_LINK_KEYS);
        if ((rc = ssh_link_wait(l, e)) != 0)
            return rc;
    }
    if (rc == SSH_OK)
        return 0;
    if (ssh_get_serverbanner(l->session))
        return ssh_link_failed(l, "no agreement on keys", e);
    if (strncmp(ssh_get_error(l->session), "Socket error", strlen("Socket error")) != 0)
        return ssh_link_failed(l, "no greeting of an ssh server", e);
    ssh_link_failed(l, "the ssh server there hangs up before it greets", e);
    err_hint(
        e, "see its log (journalctl -u ssh there); MaxStartups in its sshd_config bounds how many "
           "may connect at the same time");
    return SSH_LINK_AGAIN;
}

static int
ssh_link_refused(const struct ssh_link *l, int answer, struct err *e)
{
    if (answer == SSH_AUTH_ERROR)
        err_set(e, ERR_PERMISSION, "the authentication failed: %s", ssh_get_error(l->session));
    else if (answer == SSH_AUTH_PARTIAL)
        err_set(e, ERR_PERMISSION, "the ssh server there asks for more than a key");
    else
        err_set(e, ERR_PERMISSION, "none of this user's keys is accepted there%s",
                l->locked ? " (one has a passphrase and was not used)" : "");
    return err_hint(e,
                    "`ssh -o BatchMode=yes %s true` must work as this user: see ssh-copy-id, and "
                    "ssh-add for keys with a passphrase",
                    l->host);
}

static int
ssh_link_login(struct ssh_link *l, struct err *e)
{
    int answer;
    atomic_store(l->phase, SSH_LINK_LOGIN);
    while ((answer = ssh_userauth_publickey_auto(l->session, NULL, NULL)) == SSH_AUTH_AGAIN) {
        int rc = ssh_link_wait(l, e);
        if (rc != 0)
            return rc;
    }
    if (answer == SSH_AUTH_SUCCESS)
        return 0;
    bool unread = answer == SSH_AUTH_ERROR && l->unread < SSH_LINK_UNREAD_TRIES &&
                  strstr(ssh_get_error(l->session), "import public key");
    l->unread += unread;
    int rc = ssh_link_refused(l, answer, e);
    return unread ? SSH_LINK_AGAIN : rc;
}

static int
ssh_link_start(struct ssh_link *l, const char *command, ssh_channel_callbacks ch, struct err *e)
{
    int answer, rc = 0;
    atomic_store(l->phase, SSH_LINK_CHANNEL);
    l->channel = ssh_channel_new(l->session);
    must(l->channel && ssh_set_channel_callbacks(l->channel, ch) == SSH_OK);
    while ((answer = ssh_channel_open_session(l->channel)) == SSH_AGAIN && rc == 0)
        rc = ssh_link_wait(l, e);
    if (rc != 0 || answer != SSH_OK)
        return rc ? rc : ssh_link_failed(l, "no channel", e);
    atomic_store(l->phase, SSH_LINK_PROGRAM);
    while ((answer = ssh_channel_request_exec(l->channel, command)) == SSH_AGAIN && rc == 0)
        rc = ssh_link_wait(l, e);
    if (rc != 0 || answer != SSH_OK)
        return rc ? rc : ssh_link_failed(l, "the program cannot be started", e);
    /* libssh has made the socket block; it never writes more than the socket takes, if it does not. */
    int fd = ssh_get_fd(l->session), flags = fcntl(fd, F_GETFL);
    if (fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) != 0)
        return ssh_link_failed(l, "its socket", e);
    return 0;
}

void
ssh_link_close(struct ssh_link *l)
{
    if (l->channel)
        ssh_channel_free(l->channel);
    /* Without a word to the server: ssh_disconnect() would leave the socket to us, which libssh may have
     * closed already, and its number may be somebody else's by now. ssh_free() knows. */
    if (l->session)
        ssh_free(l->session);
    l->channel = NULL;
    l->session = NULL;
}

/* Half of it to all of it, so that those who were dropped together do not come back together. */
static int64_t
ssh_link_jitter(int64_t ms)
{
    uint32_t dice = 0;
    if (getrandom(&dice, sizeof(dice), GRND_NONBLOCK) != sizeof(dice))
        dice = (uint32_t)clock_ms();
    return ms / 2 + dice % (uint32_t)(ms / 2 + 1);
}

static int
ssh_link_pause(const struct ssh_link *l, int64_t ms, struct err *e)
{
    int64_t until = clock_ms() + ms, left;
    int rc = ssh_link_due(l, e);
    while (rc == 0 && (left = until - clock_ms()) > 0) {
        poll(NULL, 0, left < SSH_LINK_SLICE_MS ? (int)left : SSH_LINK_SLICE_MS);
        rc = ssh_link_due(l, e);
    }
    return rc;
}

static int
ssh_link_attempt(struct ssh_link *l, struct err *e)
{
    int rc = 0;
    atomic_store(l->phase, SSH_LINK_TURN);
    while (!gate_enter(l->host, SSH_LINK_SLICE_MS))
        if ((rc = ssh_link_due(l, e)) != 0)
            return rc;
    rc = ssh_link_configure(l, e);
    if (rc == 0)
        rc = ssh_link_greet(l, e);
    if (rc == 0)
        rc = ssh_link_check_host(l, e);
    if (rc == 0)
        rc = ssh_link_login(l, e);
    gate_leave(l->host);
    if (rc != 0)
        ssh_link_close(l);
    return rc;
}

int
ssh_link_open(struct ssh_link *l, const char *command, ssh_channel_callbacks ch, struct err *e)
{
    struct err late;
    int rc = ssh_link_attempt(l, e);
    for (int64_t ms = RETRY_FIRST_MS; rc == SSH_LINK_AGAIN; ms *= 2) {
        rc = ssh_link_pause(l, ssh_link_jitter(ms < RETRY_LAST_MS ? ms : RETRY_LAST_MS), &late);
        if (rc == ERR_TIMEOUT)
            break; /* what *e says is more than that it is late */
        if (rc == ERR_CANCELLED)
            *e = late;
        else
            rc = ssh_link_attempt(l, e);
    }
    if (rc == 0) {
        rc = ssh_link_start(l, command, ch, e);
        if (rc != 0)
            ssh_link_close(l);
    }
    return rc == 0 ? 0 : ssh_link_wrap(l, e);
}
