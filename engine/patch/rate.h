/*
 * A limit of bytes a second that all workers of a patch share.
 */
#ifndef MOONRISE_PATCH_RATE_H
#define MOONRISE_PATCH_RATE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct patch_rate {
    pthread_mutex_t lock;
    uint64_t bytes_a_second; /* 0: no limit */
    uint64_t next_ns;        /* when the next bytes may be read, on the monotonic clock */
};

void patch_rate_init(struct patch_rate *r, uint64_t bytes_a_second);

/* Whether it would have anybody wait now. */
bool patch_rate_waits(struct patch_rate *r);

/* Waits until `bytes` more may be read, or stopped(arg) says true. What was not used is not saved up. */
void patch_rate_take(struct patch_rate *r, uint64_t bytes, bool (*stopped)(void *), void *arg);

void patch_rate_done(struct patch_rate *r);

#endif
