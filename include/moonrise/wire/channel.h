/*
 * A channel: an ordered stream of bytes to another process, whatever carries it.
 *
 * channel_child runs a program and speaks with its standard input and output; channel_stdio is the far
 * end of that. A channel through ssh is another file beside them and needs no change above. Loop thread.
 */
#ifndef MOONRISE_WIRE_CHANNEL_H
#define MOONRISE_WIRE_CHANNEL_H

#include <stddef.h>

struct err;
struct loop;

struct channel;

struct channel_events {
    void (*on_bytes)(void *arg, const void *bytes, size_t len);
    /* Once: the other end is gone; `why` is one line (exit code, signal, its last line of stderr). */
    void (*on_end)(void *arg, const char *why);
    void *arg;
};

/* Starts argv (no shell) as a child. ERR_NOTFOUND, ERR_PERMISSION, ERR_IO. */
int channel_child(struct channel **out, struct loop *l, const char *const *argv,
                  const struct channel_events *ev, struct err *e);

/* This process's own standard input and output, which it takes over: afterwards descriptor 0 is /dev/null
 * and 1 is standard error, so that neither a stray print nor a program started from here gets at the
 * channel. ERR_IO, ERR_PERMISSION (a file instead of a pipe or socket). */
int channel_stdio(struct channel **out, struct loop *l, const struct channel_events *ev,
                  struct err *e);

/* Queues bytes (copied). */
void channel_write(struct channel *c, const void *bytes, size_t len);

/* The child's process id, for messages; 0 where there is none. */
int channel_pid(const struct channel *c);

/* Ends the other process with the channel: its input ends, and what is left of it 2 s later is killed. No
 * callbacks afterwards. NULL is fine. */
void channel_free(struct channel *c);

#endif
