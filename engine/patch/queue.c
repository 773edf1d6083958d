#include "queue.h"

#include <string.h>

void
patch_queue_init(struct patch_queue *q)
{
    memset(q, 0, sizeof(*q));
    pthread_mutex_init(&q->lock, NULL);
    pthread_cond_init(&q->not_empty, NULL);
    pthread_cond_init(&q->not_full, NULL);
}

bool
patch_queue_push(struct patch_queue *q, const struct patch_range *r)
{
    pthread_mutex_lock(&q->lock);
    while (q->count == PATCH_QUEUE_RANGES && !q->aborted)
        pthread_cond_wait(&q->not_full, &q->lock);
    bool taken = !q->aborted;
    if (taken) {
        q->ring[(q->head + q->count++) % PATCH_QUEUE_RANGES] = *r;
        pthread_cond_signal(&q->not_empty);
    }
    pthread_mutex_unlock(&q->lock);
    return taken;
}

static void
queue_take(struct patch_queue *q, struct patch_range *out)
{
    *out = q->ring[q->head];
    q->head = (q->head + 1) % PATCH_QUEUE_RANGES;
    /* Waking the driver for each free place would cost a switch a range. */
    if (q->count-- == PATCH_QUEUE_RANGES / 2 || q->count == 0)
        pthread_cond_signal(&q->not_full);
}

bool
patch_queue_pop(struct patch_queue *q, struct patch_range *out)
{
    pthread_mutex_lock(&q->lock);
    while (q->count == 0 && !q->closed && !q->aborted)
        pthread_cond_wait(&q->not_empty, &q->lock);
    bool got = q->count > 0 && !q->aborted;
    if (got)
        queue_take(q, out);
    pthread_mutex_unlock(&q->lock);
    return got;
}

bool
patch_queue_try(struct patch_queue *q, struct patch_range *out)
{
    pthread_mutex_lock(&q->lock);
    bool got = q->count > 0 && !q->aborted;
    if (got)
        queue_take(q, out);
    pthread_mutex_unlock(&q->lock);
    return got;
}

void
patch_queue_close(struct patch_queue *q)
{
    pthread_mutex_lock(&q->lock);
    q->closed = true;
    pthread_cond_broadcast(&q->not_empty);
    pthread_mutex_unlock(&q->lock);
}

void
patch_queue_abort(struct patch_queue *q)
{
    pthread_mutex_lock(&q->lock);
    q->aborted = true;
    pthread_cond_broadcast(&q->not_empty);
    pthread_cond_broadcast(&q->not_full);
    pthread_mutex_unlock(&q->lock);
}

bool
patch_queue_drain(struct patch_queue *q, struct patch_range *out)
{
    pthread_mutex_lock(&q->lock);
    bool got = q->count > 0;
    if (got)
        queue_take(q, out);
    pthread_mutex_unlock(&q->lock);
    return got;
}

void
patch_queue_done(struct patch_queue *q)
{
    pthread_cond_destroy(&q->not_full);
    pthread_cond_destroy(&q->not_empty);
    pthread_mutex_destroy(&q->lock);
}
