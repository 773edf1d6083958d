/*
 * Signals as callbacks on the loop. Loop thread only.
 */
#ifndef MOONRISE_LOOP_SIGNAL_H
#define MOONRISE_LOOP_SIGNAL_H

struct loop;
struct sigwatch;

/* Calls fn(arg, signum) on the loop for each delivery. Does not keep loop_run alive. A signal that
 * cannot be caught is a bug. */
void sigwatch_start(struct sigwatch **out, struct loop *l, int signum,
                    void (*fn)(void *arg, int signum), void *arg);

/* Restores the default disposition and frees. NULL is fine. */
void sigwatch_free(struct sigwatch *s);

#endif
