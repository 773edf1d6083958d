/*
 * Starting a server directly (fork, setsid, exec: no pg_ctl, no shell) and waiting for it.
 */
#ifndef AGENT_SERVER_H
#define AGENT_SERVER_H

#include "order.h"

#include <stdbool.h>
#include <stdint.h>

struct err;

struct server {
    int pid;
    bool in_recovery;
    bool streaming; /* a standby that receives WAL */
    bool already;   /* it ran before */
};

/* How long to wait for a server that was started. */
struct server_wait {
    int64_t deadline_ms; /* until it accepts sessions */
    int64_t stream_ms;   /* after that, for a standby to stream */
    /* Asked all the while; what it returns below 0 ends the waiting. May be NULL. */
    int (*watch)(void *watch_arg, struct err *e);
    void *watch_arg;
};

/* Starts the instance of an order that holds the lock, with args.listen and args.start_settings (or
 * args.settings for op start). Lets go of the lock once the server has its own. Waits until it accepts
 * sessions, and a standby until it streams (no error when that time passes). ERR_CHILD with the last line
 * of the log when it ends, ERR_TIMEOUT, ERR_CANCELLED; it goes on running where only the waiting ended. */
int server_start(struct server *out, struct order *o, const struct server_wait *wait,
                 struct err *e);

/* Puts the last lines of its log into *e. */
int server_failed(const struct order *o, int64_t log_from, struct err *e);

/* Refuses a marked or half-made directory. */
int server_refuse(const struct order *o, struct err *e);

/* Unlinks a postmaster.pid whose process is no server of this directory, which is proven stopped. */
int server_remove_pidfile(const char *datadir, struct err *e);

#endif
