/*
 * The event loop: one per process, run by one thread, on libuv.
 *
 * Everything below loop/ and beside it (timers, descriptors, children, signals, jobs) belongs to the
 * thread that runs the loop; only `job` bodies run elsewhere. Callbacks run on the loop's thread. No
 * header outside engine/loop shows a libuv type.
 */
#ifndef MOONRISE_LOOP_LOOP_H
#define MOONRISE_LOOP_LOOP_H

#include <stdbool.h>
#include <stdint.h>

struct err;
struct loop;

/* Creates a loop; SIGPIPE is ignored in this process from then on. ERR_IO. Free with loop_free. */
int loop_new(struct loop **out, struct err *e);

/* Runs until loop_stop, or until nothing is left that could call back. */
void loop_run(struct loop *l);

/* Runs what is ready, waiting for the first of it if `wait`; true while something is left. */
bool loop_turn(struct loop *l, bool wait);

/* Makes loop_run return after the callbacks that are ready now. */
void loop_stop(struct loop *l);

/* Milliseconds of a clock that never jumps (CLOCK_MONOTONIC); for every deadline. Any thread. */
int64_t clock_ms(void);

/* Milliseconds since 1970, for people. Any thread. */
int64_t wall_ms(void);

/* How many handles are open; a test that ends with more than it began has leaked one. */
int loop_handles(const struct loop *l);

/* Closes what is left and frees the loop: jobs are cancelled and waited for (their `done` is called),
 * children killed. What belongs to this loop must not be touched afterwards. NULL is fine. */
void loop_free(struct loop *l);

#endif
