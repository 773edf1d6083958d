/*
 * address: what this host makes of a name, and whether a server of it could listen there.
 */
#include "moonrise/base/err.h"
#include "order.h"

#include <errno.h>
#include <inttypes.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* As the server itself does: a port in TIME_WAIT is free, one that somebody listens on is not. */
static int
try_bind(const struct addrinfo *a)
{
    int one = 1, rc = 0;
    int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
    if (fd < 0)
        return errno;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (a->ai_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
    if (bind(fd, a->ai_addr, a->ai_addrlen) != 0 || listen(fd, 1) != 0)
        rc = errno;
    close(fd);
    return rc;
}

/* A name may stand for addresses that this host has not (localhost is ::1, too, also without IPv6): a server
 * needs one of them, and listens on every one that there is. */
static void
tell_port(struct order *o, const struct addrinfo *list)
{
    int problem = EADDRNOTAVAIL;
    for (const struct addrinfo *a = list; a; a = a->ai_next) {
        int sys = try_bind(a);
        bool other = sys == EADDRNOTAVAIL || sys == EAFNOSUPPORT;
        if (!other && problem == EADDRNOTAVAIL)
            problem = 0;
        if (!other && sys)
            problem = sys;
    }
    message_set_bool(o->result, "free", problem == 0);
    if (problem)
        message_set_text(o->result, "why", strerror(problem));
}

int
op_address(struct order *o, struct err *e)
{
    const char *address;
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *list;
    char service[12];
    int rc = message_need_text(o->args, "address", &address, e);
    int64_t port = message_int(o->args, "port", 0);
    if (rc == 0 && (port < 0 || port > 65535))
        rc = err_set(e, ERR_ARGUMENT, "port %" PRId64 " is none", port);
    if (rc < 0)
        return rc;
    snprintf(service, sizeof service, "%d", (int)port);
    int problem = getaddrinfo(address, service, &hints, &list);
    message_set_bool(o->result, "known", problem == 0);
    if (problem != 0) {
        message_set_text(o->result, "why", gai_strerror(problem));
        return 0;
    }
    if (port > 0)
        tell_port(o, list);
    freeaddrinfo(list);
    return 0;
}
