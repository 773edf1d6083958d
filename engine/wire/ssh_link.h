/*
 * The way from nothing to a program that runs on another host: one file for each part of it. Everything
 * here runs on the session's thread, looks at `stop` several times a second and keeps one deadline.
 */
#ifndef MOONRISE_ENGINE_WIRE_SSH_LINK_H
#define MOONRISE_ENGINE_WIRE_SSH_LINK_H

#include "moonrise/base/err.h"

#include <libssh/callbacks.h>
#include <libssh/libssh.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* How long anything may wait before it looks at `stop` again. */
#define SSH_LINK_SLICE_MS 100

enum ssh_link_phase {
    SSH_LINK_TURN, /* other connections to the host are on their way */
    SSH_LINK_RESOLVE,
    SSH_LINK_CONNECT,
    SSH_LINK_GREETING,
    SSH_LINK_KEYS,
    SSH_LINK_LOGIN,
    SSH_LINK_CHANNEL,
    SSH_LINK_PROGRAM,
};

struct ssh_link {
    const char *host;
    int64_t begun_ms, limit_ms; /* clock_ms() at the begin, and how long it may take */
    const atomic_bool *stop;
    atomic_int *phase;
    ssh_session session;
    ssh_channel channel;
    struct ssh_callbacks_struct callbacks;
    bool locked;  /* a key was met that has a passphrase */
    int unread;   /* how often a public key could not be read */
    char at[300]; /* " (127.0.0.1 port 22)" once known, for messages */
};

/* Connects and runs `command`; ch->userdata and its functions are in force before it starts. On failure
 * nothing is left of it. */
int ssh_link_open(struct ssh_link *l, const char *command, ssh_channel_callbacks ch, struct err *e);

/* Breaks the connection. */
void ssh_link_close(struct ssh_link *l);

/* 0 as long as it may go on: ERR_CANCELLED, ERR_TIMEOUT. */
int ssh_link_due(const struct ssh_link *l, struct err *e);

/* What has not happened in a phase, and when it should have. */
int ssh_link_late(int phase, int64_t limit_ms, struct err *e);

/* Puts "ssh to HOST (ADDRESS port N): " before the message. */
int ssh_link_wrap(const struct ssh_link *l, struct err *e);

/* Sets up a session from the user's and the system's configuration. */
int ssh_link_configure(struct ssh_link *l, struct err *e);

/* A connected TCP socket that notices a dead link. */
int ssh_link_connect_tcp(struct ssh_link *l, int *fd_out, struct err *e);

/* Compares the server's key with what is on record. */
int ssh_link_check_host(struct ssh_link *l, struct err *e);

#endif
