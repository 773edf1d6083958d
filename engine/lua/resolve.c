#include "resolve.h"

#include "bind.h"
#include "runtime.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"
#include "moonrise/loop/job.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

struct resolving {
    struct resolving *next, **link; /* in the runtime's list, while somebody waits */
    struct runtime *rt;
    struct resolution found;
    void (*done)(void *arg, const struct resolution *found);
    void *arg;
};

static bool
is_literal(const char *host)
{
    unsigned char address[sizeof(struct in6_addr)];
    return host[0] == '/' || host[0] == '@' || host[0] == '\0' ||
           inet_pton(AF_INET, host, address) == 1 || inet_pton(AF_INET6, host, address) == 1;
}

static void
resolution_add(struct resolution *r, char *name)
{
    r->names = mem_realloc(r->names, (r->count + 1) * sizeof(*r->names));
    r->names[r->count++] = (struct resolved){.name = name};
}

static void
resolution_split(struct resolution *r, const char *hosts)
{
    for (const char *comma; (comma = strchr(hosts, ',')); hosts = comma + 1)
        resolution_add(r, mem_printf("%.*s", (int)(comma - hosts), hosts));
    resolution_add(r, mem_strdup(hosts));
}

static void
resolution_done(struct resolution *r)
{
    for (size_t i = 0; i < r->count; i++) {
        for (size_t k = 0; k < r->names[i].count; k++)
            free(r->names[i].addresses[k]);
        free(r->names[i].name);
    }
    free(r->names);
}

bool
resolve_needed(const char *hosts)
{
    struct resolution r = {0};
    bool needed = false;
    resolution_split(&r, hosts);
    for (size_t i = 0; i < r.count; i++)
        needed = needed || !is_literal(r.names[i].name);
    resolution_done(&r);
    return needed;
}

static void
lookup_name(struct resolved *r)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list = NULL;
    if (getaddrinfo(r->name, NULL, &hints, &list) != 0)
        return;
    for (struct addrinfo *a = list; a && r->count < RESOLVE_ADDRESSES_MAX; a = a->ai_next) {
        char text[NI_MAXHOST];
        if (getnameinfo(a->ai_addr, a->ai_addrlen, text, sizeof(text), NULL, 0, NI_NUMERICHOST) ==
            0)
            r->addresses[r->count++] = mem_strdup(text);
    }
    freeaddrinfo(list);
}

static void
lookup_run(struct job_self *self, void *arg)
{
    struct resolving *l = arg;
    for (size_t i = 0; i < l->found.count && !atomic_load(&self->cancel); i++) {
        struct resolved *r = &l->found.names[i];
        if (is_literal(r->name))
            r->addresses[r->count++] =
                mem_strdup(strpbrk(r->name, "/@") || !*r->name ? "" : r->name);
        else
            lookup_name(r);
    }
}

static void
lookup_free(void *arg)
{
    struct resolving *l = arg;
    resolution_done(&l->found);
    free(l);
}

static void
lookup_tell(struct resolving *l, const struct resolution *found)
{
    *l->link = l->next;
    if (l->next)
        l->next->link = l->link;
    l->link = NULL;
    l->done(l->arg, found);
}

static void
lookup_done(void *arg)
{
    struct resolving *l = arg;
    if (l->link)
        lookup_tell(l, &l->found);
    lookup_free(l);
}

/* A resolver may need half a minute to give up on a server that is gone. */
void
resolve_end(struct runtime *rt)
{
    const struct resolution nothing = {0};
    while (rt->resolving)
        lookup_tell(rt->resolving, &nothing);
}

int
resolve_start(struct runtime *rt, const char *hosts,
              void (*done)(void *arg, const struct resolution *found), void *arg, struct err *e)
{
    struct resolving *l = mem_zalloc(sizeof(*l));
    l->rt = rt;
    l->done = done;
    l->arg = arg;
    resolution_split(&l->found, hosts);
    struct job *job;
    struct job_spec spec = {.run = lookup_run, .done = lookup_done, .left = lookup_free, .arg = l};
    int rc = job_start(&job, rt->loop, &spec, e);
    if (rc) {
        lookup_free(l);
        return rc;
    }
    l->next = rt->resolving;
    l->link = &rt->resolving;
    if (l->next)
        l->next->link = &l->next;
    rt->resolving = l;
    return 0;
}

/* What mr.resolve waits for: freed when the thread is done, whoever still waits. */
struct name {
    struct wait wait;
};

static bool
name_cancel(struct wait *w, bool force)
{
    (void)w;
    (void)force;
    return true;
}

static int
push_addresses(lua_State *L, void *arg)
{
    const struct resolution *found = arg;
    const struct resolved *r = &found->names[0];
    if (r->count == 0)
        return error_returnf(L, ERR_NOTFOUND, "%s: no address is known for this name", r->name);
    lua_createtable(L, (int)r->count, 0);
    for (size_t i = 0; i < r->count; i++) {
        lua_pushstring(L, r->addresses[i]);
        lua_rawseti(L, -2, (int)i + 1);
    }
    return 1;
}

static void
name_done(void *arg, const struct resolution *found)
{
    struct name *n = arg;
    wait_end(&n->wait, push_addresses, (void *)found);
    free(n);
}

/* mr.resolve(name, timeout_ms?) -> {address, ...}, or nil, err */
int
resolve_name(lua_State *L)
{
    const char *name = luaL_checkstring(L, 1);
    luaL_argcheck(L, *name && !strpbrk(name, ",/@"), 1, "a host name expected");
    int64_t timeout_ms = arg_ms(L, 2, 5000);
    struct task *t;
    int rc = task_enter(L, "resolve", &t);
    if (rc)
        return rc;
    struct name *n = mem_zalloc(sizeof(*n));
    n->wait.cancel = name_cancel;
    n->wait.what = "the addresses of a host name";
    struct err e;
    if (resolve_start(t->rt, name, name_done, n, &e)) {
        free(n);
        return error_return(L, &e);
    }
    return task_wait(L, t, &n->wait, timeout_ms, 0);
}
