/*
 * Streams between two hosts that do not reach each other, through this one, which reaches both.
 *
 * A relay is given two programs: one at the target's host, which says the first word, and one at the source's,
 * which is started only then. It keeps one of the target's waiting, so there are as many streams as are asked
 * for there. Each stream has a thread, which pumps bytes and knows nothing of what they mean; a program that is
 * to run on this host is a child. Any thread.
 */
#ifndef MOONRISE_WIRE_RELAY_H
#define MOONRISE_WIRE_RELAY_H

#include <stdatomic.h>
#include <stdint.h>

struct err;
struct relay;

/* A stream's end: two descriptors, or the same one twice. */
struct relay_end {
    int in, out;
};

/* Pumps between two ends, each direction for itself: what ends here ends there (a socket is shut down for
 * writing, anything else closed), and what one end does not take is not read from the other one. A direction
 * whose reader has gone ends, too. Makes the descriptors non-blocking. 0 when both directions have ended;
 * ERR_CANCELLED soon after *stop (or NULL); ERR_CONNECT: a descriptor broke. */
int relay_pump(const struct relay_end *a, const struct relay_end *b, const atomic_bool *stop,
               struct err *e);

struct relay_leg {
    const char *host;        /* as for ssh_open; NULL: this one */
    const char *const *argv; /* NULL-terminated */
};

struct relay_spec {
    struct relay_leg source, target;
    int64_t connect_ms;
};

/* Begins with the first of the target's programs; the texts are copied. Does not wait. */
int relay_start(struct relay **out, const struct relay_spec *spec, struct err *e);

/* Why the first stream that failed did; code 0: none has. */
void relay_why(struct relay *r, struct err *e);

/* Ends all streams, and the programs with them, within a moment. Does not wait. NULL is fine. */
void relay_close(struct relay *r);

#endif
