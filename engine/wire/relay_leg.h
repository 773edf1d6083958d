/*
 * A program on another host, reached by ssh, or on this one, as a child: a stream socket to its standard input
 * and output either way. From threads that block.
 */
#ifndef WIRE_RELAY_LEG_H
#define WIRE_RELAY_LEG_H

#include "moonrise/wire/relay.h"

#include <sys/types.h>

struct ssh;

struct leg {
    struct ssh *ssh; /* NULL: a child */
    pid_t pid;
    int fd;
};

/* As ssh_open; ERR_NOTFOUND: there is no such program here. */
int leg_open(struct leg *leg, const struct relay_leg *what, int64_t connect_ms,
             const atomic_bool *cancel, struct err *e);

int leg_fd(const struct leg *leg);

/* After end of file: why the program has ended, where that is known and is no success. Leaves *e alone
 * otherwise. */
void leg_why(struct leg *leg, struct err *e);

/* Ends the program with its input. */
void leg_close(struct leg *leg);

#endif
