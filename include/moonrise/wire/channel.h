/*
 * A channel: an ordered stream of bytes to another process, whatever carries it.
 *
 * channel_child runs a program and speaks with its standard input and output, channel_ssh one on another
 * host; channel_stdio is the far end of both. Loop thread.
 */
#ifndef MOONRISE_WIRE_CHANNEL_H
#define MOONRISE_WIRE_CHANNEL_H

#include <stddef.h>
#include <stdint.h>

struct err;
struct loop;

struct channel;

struct channel_events {
    void (*on_bytes)(void *arg, const void *bytes, size_t len);
    /* Once: the other end is gone, or could not be reached; `why` says its exit code, signal, last line of
     * stderr. ERR_NOTFOUND: there is no such program. */
    void (*on_end)(void *arg, const struct err *why);
    void *arg;
    /* The program has been started; NULL where that is at once. */
    void (*on_up)(void *arg);
};

/* Starts argv (no shell) as a child. ERR_NOTFOUND, ERR_PERMISSION, ERR_IO. */
int channel_child(struct channel **out, struct loop *l, const char *const *argv,
                  const struct channel_events *ev, struct err *e);

/* Runs argv on another host (ssh.h); connecting takes place on a thread of its own, and bytes may be written
 * at once. A failure to connect is told by on_end, with ssh_open's codes and hint. ERR_IO. */
struct channel_host {
    const char *name;
    const char *const *argv;
    int64_t connect_ms;
};
int channel_ssh(struct channel **out, struct loop *l, const struct channel_host *host,
                const struct channel_events *ev, struct err *e);

/* This process's own standard input and output, which it takes over: afterwards descriptor 0 is /dev/null
 * and 1 is standard error, so that neither a stray print nor a program started from here gets at the
 * channel. ERR_IO, ERR_PERMISSION (a file instead of a pipe or socket). */
int channel_stdio(struct channel **out, struct loop *l, const struct channel_events *ev,
                  struct err *e);

/* Queues bytes (copied). */
void channel_write(struct channel *c, const void *bytes, size_t len);

/* Bytes queued that the other end has left no room for yet. */
size_t channel_unsent_bytes(const struct channel *c);

/* The child's process id, for messages; 0 where there is none. */
int channel_pid(const struct channel *c);

/* Ends the other process with the channel: its input ends, and what is left of it 2 s later is killed. No
 * callbacks afterwards. NULL is fine. */
void channel_free(struct channel *c);

#endif
