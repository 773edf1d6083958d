#include "bind.h"
#include "objects.h"

#include "moonrise/base/err.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

static socklen_t
address_of(union address *a, const char *text, int port)
{
    memset(a, 0, sizeof(*a));
    if (inet_pton(AF_INET, text, &a->v4.sin_addr) == 1) {
        a->v4.sin_family = AF_INET;
        a->v4.sin_port = htons((uint16_t)port);
        return sizeof(a->v4);
    }
    if (inet_pton(AF_INET6, text, &a->v6.sin6_addr) == 1) {
        a->v6.sin6_family = AF_INET6;
        a->v6.sin6_port = htons((uint16_t)port);
        return sizeof(a->v6);
    }
    return 0;
}

/* mr.port_free(port, address?) -> boolean. Bound as PostgreSQL binds: connections that linger from a
 * server that has ended are no hindrance. An address of another host is not free. */
static int
l_port_free(lua_State *L)
{
    int port = (int)luaL_checkinteger(L, 1), on = 1;
    luaL_argcheck(L, port >= 1 && port <= 65535, 1, "port: 1 to 65535");
    union address a;
    socklen_t len = address_of(&a, luaL_optstring(L, 2, "127.0.0.1"), port);
    luaL_argcheck(L, len > 0, 2, "address: a numeric address expected");
    int fd = socket(a.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool is_free = fd >= 0 && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) == 0 &&
                   bind(fd, &a.any, len) == 0 && listen(fd, 1) == 0;
    if (fd >= 0)
        close(fd);
    lua_pushboolean(L, is_free);
    return 1;
}

/* mr.free_port() -> port */
static int
l_free_port(lua_State *L)
{
    union address a;
    socklen_t len = address_of(&a, "127.0.0.1", 0);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool found = fd >= 0 && bind(fd, &a.any, len) == 0 && getsockname(fd, &a.any, &len) == 0;
    if (fd >= 0)
        close(fd);
    if (!found)
        return luaL_error(L, "free_port: %s", strerror(errno));
    lua_pushinteger(L, ntohs(a.v4.sin_port));
    return 1;
}

void
net_functions(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"port_free", l_port_free}, {"free_port", l_free_port}, {NULL, NULL}};
    luaL_setfuncs(L, functions, 0);
}
