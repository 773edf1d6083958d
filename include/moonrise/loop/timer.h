/*
 * Timers: a call later, once or again and again. Loop thread only.
 */
#ifndef MOONRISE_LOOP_TIMER_H
#define MOONRISE_LOOP_TIMER_H

#include <stdint.h>

struct loop;
struct timer;

/* Calls fn(arg) once, after `after_ms`. Out of memory is fatal. */
void timer_start(struct timer **out, struct loop *l, int64_t after_ms, void (*fn)(void *arg),
                 void *arg);

/* As timer_start, for the time somebody else has to answer. When this process itself was away from its
 * loop (stopped, a long callback), what has come meanwhile is looked at first, and the time away is given
 * back, up to `after_ms`: nobody is called silent for an answer that waits to be read. */
void timer_deadline(struct timer **out, struct loop *l, int64_t after_ms, void (*fn)(void *arg),
                    void *arg);

/* Calls fn(arg) every `every_ms`, the first time after that long. Times that were missed are not made
 * up for. */
void timer_every(struct timer **out, struct loop *l, int64_t every_ms, void (*fn)(void *arg),
                 void *arg);

/* Sets a new time (every_ms 0: once); works on one that has fired or was stopped. A timer_deadline stays
 * one, and takes 0 only. */
void timer_again(struct timer *t, int64_t after_ms, int64_t every_ms);

/* No more calls until timer_again. */
void timer_stop(struct timer *t);

/* Stops and frees; allowed inside its own callback. NULL is fine. */
void timer_free(struct timer *t);

#endif
