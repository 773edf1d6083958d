/*
 * Feeders of a host that this one does not reach by ssh: whoever gave the order reaches both, and relays
 * (moonrise/wire/relay.h). It has `moonrise agent --relay SOCKET` run here for each stream, which joins its
 * standard input and output to a socket that this process listens on, in a directory of its own; nobody but
 * this user is let in.
 */
#ifndef AGENT_REMOTE_RELAY_H
#define AGENT_REMOTE_RELAY_H

#include "remote.h"

#include <stdatomic.h>

struct remote_relay {
    struct remote_way way; /* first: what is handed on */
    char *directory;       /* NULL: not open */
    char *socket;          /* what whoever relays is told */
    int listener;
    const atomic_bool *cancel;
};

/* Listens; a feeder that is opened this way is the next one who comes. host is borrowed. */
int remote_relay_open(struct remote_relay *r, const char *host, const atomic_bool *cancel,
                      struct err *e);

/* Leaves nothing; streams that are open go on. Fine on one that is not open. */
void remote_relay_close(struct remote_relay *r);

#endif
