/*
 * Calls over a channel: a caller sends operations, the other end answers each with progress, then one
 * result or one error. Heartbeats run both ways; silence ends the session. Loop thread only.
 */
#ifndef MOONRISE_WIRE_SESSION_H
#define MOONRISE_WIRE_SESSION_H

#include "moonrise/base/err.h"

#include <stdint.h>

struct channel;
struct channel_host;
struct loop;
struct message;
struct session;

struct session_events {
    /* The far end of a call: answer it with session_reply or session_fail, once, any time later.
     * NULL on the caller's side: calls from the other end are refused. */
    void (*on_call)(void *arg, struct session *s, uint32_t id, const char *op,
                    const struct message *args);
    /* The caller withdrew call `id`; it still wants its answer. May be NULL. */
    void (*on_cancel)(void *arg, struct session *s, uint32_t id);
    /* Once: the session is over, all open calls have failed before with the same reason. ERR_CONNECT:
     * it was up; before that it is what hindered it (ssh.h, ERR_VERSION, ERR_NOTFOUND: no moonrise there). */
    void (*on_end)(void *arg, const struct err *why);
    void *arg;
    /* The other end has greeted, with the same protocol and version. May be NULL. */
    void (*on_up)(void *arg);
};

/* How a call comes back: progress any number of times, then done once (m or e is NULL; borrowed). */
struct session_call {
    void (*on_progress)(void *arg, const struct message *m); /* may be NULL */
    void (*on_done)(void *arg, const struct message *m, const struct err *e);
    void *arg;
};

/* Opens the calling side by running argv, which must greet with the same protocol and version (else
 * ERR_VERSION). Calls may be sent at once. ERR_NOTFOUND, ERR_IO. */
int session_start(struct session **out, struct loop *l, const char *const *argv,
                  const struct session_events *ev, struct err *e);

/* The same on another host (channel.h); that it cannot be reached is told by on_end. ERR_IO. */
int session_start_ssh(struct session **out, struct loop *l, const struct channel_host *host,
                      const struct session_events *ev, struct err *e);

/* Opens the serving side on standard input and output. */
int session_serve(struct session **out, struct loop *l, const struct session_events *ev,
                  struct err *e);

/* A heartbeat every `every_ms` (2000), the end after `dead_ms` (10000) of silence. */
void session_set_heartbeat(struct session *s, int64_t every_ms, int64_t dead_ms);

/* Sends operation `op`; `args` is borrowed. timeout_ms 0 is none: the call then ends with its answer,
 * the session or session_cancel. On time-out the call is withdrawn and fails with ERR_TIMEOUT. */
uint32_t session_call(struct session *s, const char *op, const struct message *args,
                      int64_t timeout_ms, const struct session_call *call);

/* Withdraws a call: the far end is told; on_done comes with its answer. */
void session_cancel(struct session *s, uint32_t id);

void session_progress(struct session *s, uint32_t id, const struct message *m);
void session_reply(struct session *s, uint32_t id, const struct message *m);
void session_fail(struct session *s, uint32_t id, const struct err *e);

int session_pid(const struct session *s);

/* Ends it; open calls fail with ERR_CANCELLED first. NULL is fine. */
void session_free(struct session *s);

#endif
