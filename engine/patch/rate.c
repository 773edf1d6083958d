#include "rate.h"

#include <time.h>

#define RATE_SECOND_NS 1000000000ull
#define RATE_NAP_NS    50000000ull /* how soon a cancelled wait ends */

static uint64_t
rate_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * RATE_SECOND_NS + (uint64_t)t.tv_nsec;
}

void
patch_rate_init(struct patch_rate *r, uint64_t bytes_a_second)
{
    pthread_mutex_init(&r->lock, NULL);
    r->bytes_a_second = bytes_a_second;
    r->next_ns = 0;
}

bool
patch_rate_waits(struct patch_rate *r)
{
    if (r->bytes_a_second == 0)
        return false;
    uint64_t now = rate_now_ns();
    pthread_mutex_lock(&r->lock);
    bool waits = r->next_ns > now;
    pthread_mutex_unlock(&r->lock);
    return waits;
}

void
patch_rate_take(struct patch_rate *r, uint64_t bytes, bool (*stopped)(void *), void *arg)
{
    if (r->bytes_a_second == 0)
        return;
    uint64_t now = rate_now_ns();
    pthread_mutex_lock(&r->lock);
    uint64_t start = r->next_ns > now ? r->next_ns : now;
    double takes_ns = (double)bytes / (double)r->bytes_a_second * (double)RATE_SECOND_NS;
    r->next_ns = start + (uint64_t)takes_ns;
    pthread_mutex_unlock(&r->lock);
    while (now < start && !stopped(arg)) {
        uint64_t left = start - now < RATE_NAP_NS ? start - now : RATE_NAP_NS;
        struct timespec nap = {.tv_nsec = (long)left};
        nanosleep(&nap, NULL);
        now = rate_now_ns();
    }
}

void
patch_rate_done(struct patch_rate *r)
{
    pthread_mutex_destroy(&r->lock);
}
