/*
 * A bounded queue of ranges between the driver, which cuts files, and the workers. Its bound is what
 * keeps the number of files in progress, and so memory and descriptors, independent of the data.
 */
#ifndef MOONRISE_PATCH_QUEUE_H
#define MOONRISE_PATCH_QUEUE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#define PATCH_QUEUE_RANGES 64

struct patch_file;

struct patch_range {
    struct patch_file *file;
    uint64_t offset;
    uint32_t bytes;
};

struct patch_queue {
    pthread_mutex_t lock;
    pthread_cond_t not_empty;
    pthread_cond_t not_full;
    struct patch_range ring[PATCH_QUEUE_RANGES];
    uint32_t head;
    uint32_t count;
    bool closed;  /* nothing more comes */
    bool aborted; /* nobody takes anything more */
};

void patch_queue_init(struct patch_queue *q);

/* Waits for room. False, and the range stays the caller's, when the queue was aborted. */
bool patch_queue_push(struct patch_queue *q, const struct patch_range *r);

/* Waits for a range. False when none will come. */
bool patch_queue_pop(struct patch_queue *q, struct patch_range *out);

/* Takes a range if there is one, without waiting. */
bool patch_queue_try(struct patch_queue *q, struct patch_range *out);

void patch_queue_close(struct patch_queue *q);
void patch_queue_abort(struct patch_queue *q);

/* Takes a range that was left behind, without waiting. For after the workers have ended. */
bool patch_queue_drain(struct patch_queue *q, struct patch_range *out);

void patch_queue_done(struct patch_queue *q);

#endif
