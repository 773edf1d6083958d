/*
 * Bytes between an ssh channel and a socket, both ways at once, until both are over. On the session's
 * thread. Nothing is read that cannot be passed on: what a side does not take, its sender keeps.
 */
#ifndef MOONRISE_ENGINE_WIRE_SSH_PUMP_H
#define MOONRISE_ENGINE_WIRE_SSH_PUMP_H

#include "ssh_link.h"

#include "moonrise/base/str.h"

#define PUMP_BYTES 131072

struct pump {
    struct ssh_link *link;
    int fd; /* our end of the socket pair; non-blocking */
    struct ssh_channel_callbacks_struct callbacks;
    char *in; /* from the socket, not yet taken by libssh */
    size_t in_at, in_len;
    char *out; /* from libssh, not yet taken by the socket */
    size_t out_at, out_len;
    bool held;     /* libssh has more for the socket than the socket took */
    bool in_over;  /* the socket has said end of file */
    bool told;     /* ... and so does the channel */
    bool gone;     /* nobody reads the socket any more */
    bool closed;   /* the channel, by the server */
    int exit_code; /* -1 as long as it is not known */
    char signal[32];
    struct str word; /* the end of its standard error */
};

/* Sets up what ssh_link_open needs. */
void pump_init(struct pump *p, struct ssh_link *l, int fd);

/* Until the channel is closed and all was delivered, the connection breaks, or the socket's other end was
 * closed and the program had its time. *why as ssh_why says. */
void pump_run(struct pump *p, struct err *why);

void pump_done(struct pump *p);

#endif
