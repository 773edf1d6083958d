#include "ssh_link.h"

#include "moonrise/loop/loop.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define TCP_SILENT_S   15    /* then the kernel asks whether the other end is there */
#define TCP_ASK_S      5     /* again */
#define TCP_ASKED      3     /* times */
#define TCP_UNACKED_MS 30000 /* what was sent and is not acknowledged by then ends the connection */
#define TCP_SHARE_MS   1000  /* each of several addresses gets its share, and at least that long */

static void
tcp_settle(int fd)
{
    const int yes = 1, silent = TCP_SILENT_S, ask = TCP_ASK_S, asked = TCP_ASKED;
    const unsigned unacked = TCP_UNACKED_MS;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &yes, sizeof(yes));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &silent, sizeof(silent));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &ask, sizeof(ask));
    setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &asked, sizeof(asked));
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unacked, sizeof(unacked));
}

/* Waits for a connection that was begun: 0, an errno, or a negative ERR_*. */
static int
tcp_wait(const struct ssh_link *l, int fd, int64_t until_ms, struct err *e)
{
    for (;;) {
        struct pollfd p = {.fd = fd, .events = POLLOUT};
        int rc = ssh_link_due(l, e);
        if (rc != 0)
            return rc;
        if (poll(&p, 1, SSH_LINK_SLICE_MS) > 0) {
            int sys = 0;
            socklen_t len = sizeof(sys);
            return getsockopt(fd, SOL_SOCKET, SO_ERROR, &sys, &len) == 0 ? sys : errno;
        }
        if (clock_ms() >= until_ms)
            return ETIMEDOUT;
    }
}

static int
tcp_connect(const struct ssh_link *l, const struct addrinfo *a, int64_t until_ms, struct err *e)
{
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_sys(e, errno, "cannot make a socket");
    int rc = connect(fd, a->ai_addr, a->ai_addrlen) == 0 ? 0 : errno;
    if (rc == EINPROGRESS)
        rc = tcp_wait(l, fd, until_ms, e);
    if (rc == 0) {
        tcp_settle(fd);
        return fd;
    }
    close(fd);
    if (rc < 0)
        return rc;
    err_sys(e, rc, "no connection");
    return e->code = ERR_CONNECT;
}

static void
tcp_name(struct ssh_link *l, const struct addrinfo *a)
{
    char address[NI_MAXHOST], port[NI_MAXSERV];
    if (getnameinfo(a->ai_addr, a->ai_addrlen, address, sizeof(address), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV) == 0)
        snprintf(l->at, sizeof(l->at), " (%.200s port %s)", address, port);
}

static int
tcp_resolve(const struct ssh_link *l, struct addrinfo **list, struct err *e)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
    unsigned port = 22;
    char service[12], *name = NULL;
    ssh_options_get_port(l->session, &port);
    must(ssh_options_get(l->session, SSH_OPTIONS_HOST, &name) == SSH_OK);
    snprintf(service, sizeof(service), "%u", port ? port : 22);
    int gai = getaddrinfo(name, service, &hints, list);
    int code = gai == EAI_NONAME ? ERR_NOTFOUND : ERR_CONNECT;
    if (gai != 0)
        err_set(e, code, "the name %s cannot be resolved: %s", name,
                gai == EAI_SYSTEM ? strerror(errno) : gai_strerror(gai));
    ssh_string_free_char(name);
    return gai == 0 ? 0 : code;
}

int
ssh_link_connect_tcp(struct ssh_link *l, int *fd_out, struct err *e)
{
    struct addrinfo *list;
    atomic_store(l->phase, SSH_LINK_RESOLVE);
    int rc = tcp_resolve(l, &list, e);
    if (rc != 0)
        return rc;
    atomic_store(l->phase, SSH_LINK_CONNECT);
    int left = 0;
    for (const struct addrinfo *a = list; a; a = a->ai_next)
        left++;
    rc = ERR_CONNECT;
    for (const struct addrinfo *a = list; a && rc == ERR_CONNECT; a = a->ai_next, left--) {
        int64_t now = clock_ms(), share = (l->begun_ms + l->limit_ms - now) / left;
        tcp_name(l, a);
        rc = tcp_connect(l, a, now + (share > TCP_SHARE_MS ? share : TCP_SHARE_MS), e);
    }
    freeaddrinfo(list);
    if (rc < 0)
        return rc;
    *fd_out = rc;
    return 0;
}
