/*
 * Jobs: work that blocks (a patch, an order on a server), each on a thread of its own.
 *
 * A job gets immutable input and hands back a result; it touches nothing the loop owns. It learns
 * that it should stop from its cancel flag, which everything that waits inside a job looks at.
 */
#ifndef MOONRISE_LOOP_JOB_H
#define MOONRISE_LOOP_JOB_H

#include <stdatomic.h>
#include <stdbool.h>

struct err;
struct job;
struct loop;

/* What a job's thread may use: its cancel flag, and job_post to say something to the loop. */
struct job_self {
    atomic_bool cancel;
    struct job *job;
};

struct job_spec {
    void (*run)(struct job_self *self, void *arg); /* on the job's thread */
    void (*done)(void *arg);                       /* on the loop, once, after run returned */
    void (*said)(void *arg, void *message);        /* on the loop, for each job_post; may be NULL */
    /* NULL, or for work that cannot be cancelled and may be left alone: a loop that goes away does not
     * wait for it. `done` does not come then; this frees what it works on, on either thread. Such work
     * posts nothing. */
    void (*left)(void *arg);
    void *arg;
};

/* Starts a thread. The job frees itself after `done`. ERR_IO when no thread can be had. */
int job_start(struct job **out, struct loop *l, const struct job_spec *spec, struct err *e);

/* From the job's thread: hands `message` (ownership goes to `said`) to the loop, in order. */
void job_post(struct job_self *self, void *message);

/* Sets the cancel flag; `done` still comes. Loop thread. */
void job_cancel(struct job *j);

#endif
