/*
 * A feeder on another host (feeder.c), as the target's agent has it: a link to a process that was started there.
 * From threads that block; each remote belongs to one at a time.
 */
#ifndef AGENT_REMOTE_H
#define AGENT_REMOTE_H

#include "moonrise/wire/link.h"

#include <stdatomic.h>
#include <stdint.h>

struct err;
struct message;

/* How feeders of a host are started: by ssh, or, in tests, as children. */
struct remote_way {
    const char *host;
    /* *fd is a stream socket to the process's standard input and output; *process is handed to the others. The
     * flag ends it; NULL: the one that the way was made with. */
    int (*open)(const struct remote_way *way, const atomic_bool *cancel, void **process, int *fd,
                struct err *e);
    void (*why)(void *process, struct err *e); /* after the end of its output: why it has ended */
    void (*close)(void *process);              /* ends it, and closes fd */
    const void *arg;
};

struct remote {
    struct link link;
    const struct remote_way *way;
    void *process;
    bool started;   /* its host was reached, whatever came then */
    int64_t pid;    /* there, as it says */
    char peer[300]; /* "host sdw1" */
};

struct remote_spec {
    const struct remote_way *way;
    uint64_t seed;             /* of the hashes of blocks */
    int64_t stall_ms;          /* how long it may say nothing that it owes; 0: LINK_STALL_MS */
    int64_t silence_ms;        /* it ends by itself when it has heard nothing for so long */
    const atomic_bool *cancel; /* ends the starting of it, as in struct remote_way; or NULL */
    bool (*stopped)(void *arg);
    void *arg;
};

/* Starts a feeder and greets it. ERR_CONNECT, ERR_VERSION, ERR_TIMEOUT, ERR_CANCELLED, ... On failure nothing
 * is left. */
int remote_open(struct remote *r, const struct remote_spec *spec, struct err *e);

/* A call (feeder.c has the list); *out (may be NULL) is freed with message_free. */
int remote_call(struct message **out, struct remote *r, const struct link_call *call,
                struct err *e);

/* Adds to an error of the link why its other end has gone, where that is known. Returns the code. */
int remote_wrap(struct remote *r, int rc, struct err *e);

/* Ends the feeder, and what it does. */
void remote_close(struct remote *r);

#endif
