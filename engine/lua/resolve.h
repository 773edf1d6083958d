/*
 * Host names looked up on a thread of its own, since the system's resolver blocks. Private to
 * engine/lua; loop thread.
 */
#ifndef MOONRISE_ENGINE_LUA_RESOLVE_H
#define MOONRISE_ENGINE_LUA_RESOLVE_H

#include <lua.h>
#include <stdbool.h>
#include <stddef.h>

struct err;
struct runtime;

#define RESOLVE_ADDRESSES_MAX 16

struct resolved {
    char *name;
    char *addresses
        [RESOLVE_ADDRESSES_MAX]; /* one "" for a socket directory, the text of an address */
    size_t count;
};

struct resolution {
    struct resolved *names;
    size_t count;
};

/* Whether a comma list of hosts holds anything but addresses and socket directories. */
bool resolve_needed(const char *hosts);

/* Looks up a comma list of hosts. `done` is called once, on the loop, and borrows the result, which is
 * empty when the runtime ended first. */
int resolve_start(struct runtime *rt, const char *hosts,
                  void (*done)(void *arg, const struct resolution *found), void *arg,
                  struct err *e);

/* The runtime ends, when nothing waits any more: what is still looked up is told nothing, and left. */
void resolve_end(struct runtime *rt);

/* mr.resolve. */
int resolve_name(lua_State *L);

#endif
