/*
 * Feeders that are started by ssh.
 */
#ifndef AGENT_REMOTE_SSH_H
#define AGENT_REMOTE_SSH_H

#include "remote.h"

#include <stdatomic.h>
#include <stdint.h>

#define REMOTE_CONNECT_MS 30000

struct remote_ssh {
    struct remote_way way; /* first: what is handed on */
    const char *program;   /* moonrise there; NULL: what ssh_moonrise finds */
    const char *name;      /* this host, for who looks at the list of processes there */
    int64_t connect_ms;
    const atomic_bool *cancel;
};

/* A way to a host as ~/.ssh/config knows it; all texts are borrowed. */
void remote_ssh_init(struct remote_ssh *s, const char *host, const atomic_bool *cancel);

#endif
