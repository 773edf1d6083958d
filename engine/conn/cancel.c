#include "pq.h"

#include "moonrise/base/str.h"

#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#define CANCEL_STACK_BYTES (512 * 1024)

/* Shared by the thread that asks and the one that waits for it; the last one frees it. */
struct cancel_call {
    PGcancel *request;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int users;
    bool sent;
};

static void
cancel_leave(struct cancel_call *call)
{
    bool last = --call->users == 0;
    pthread_mutex_unlock(&call->lock);
    if (!last)
        return;
    pthread_mutex_destroy(&call->lock);
    pthread_cond_destroy(&call->changed);
    PQfreeCancel(call->request);
    free(call);
}

/* With a server whose postmaster hangs this thread stays until the server goes on or ends: libpq 15
 * knows no deadline here, and nobody waits for it. */
static void *
cancel_thread(void *arg)
{
    struct cancel_call *call = arg;
    char words[256];
    PQcancel(call->request, words, sizeof(words));
    pthread_mutex_lock(&call->lock);
    call->sent = true;
    pthread_cond_signal(&call->changed);
    cancel_leave(call);
    return NULL;
}

static bool
cancel_start(struct cancel_call *call)
{
    pthread_t thread;
    pthread_attr_t attr;
    if (pthread_attr_init(&attr) != 0)
        return false;
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, CANCEL_STACK_BYTES);
    call->users++;
    bool ok = pthread_create(&thread, &attr, cancel_thread, call) == 0;
    call->users -= !ok;
    pthread_attr_destroy(&attr);
    return ok;
}

void
pq_cancel(const struct pq *p, int wait_ms)
{
    PGcancel *request = p->conn ? PQgetCancel(p->conn) : NULL;
    if (!request)
        return;
    struct cancel_call *call = mem_zalloc(sizeof(*call));
    pthread_condattr_t clock;
    call->request = request;
    call->users = 1;
    pthread_mutex_init(&call->lock, NULL);
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&call->changed, &clock);
    pthread_condattr_destroy(&clock);
    pthread_mutex_lock(&call->lock);
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += wait_ms / 1000;
    until.tv_nsec += (long)(wait_ms % 1000) * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    if (cancel_start(call) && wait_ms > 0)
        while (!call->sent && pthread_cond_timedwait(&call->changed, &call->lock, &until) == 0)
            continue;
    cancel_leave(call);
}
