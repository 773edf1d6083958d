#include "ssh_gate.h"

#include "moonrise/base/str.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define GATE_PLACES 6

struct gate {
    struct gate *next;
    int taken;
    char name[];
};

/* All sessions of the process share it, whichever thread opens them. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t freed;
    struct gate *first; /* one for each host with a place taken */
} ssh_gates = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, NULL};

static struct gate **
gate_find(const char *host)
{
    struct gate **link = &ssh_gates.first;
    while (*link && strcmp((*link)->name, host) != 0)
        link = &(*link)->next;
    return link;
}

static bool
gate_take(const char *host)
{
    struct gate **link = gate_find(host);
    if (!*link) {
        size_t len = strlen(host) + 1;
        *link = mem_zalloc(sizeof(**link) + len);
        memcpy((*link)->name, host, len);
    }
    if ((*link)->taken == GATE_PLACES)
        return false;
    (*link)->taken++;
    return true;
}

bool
gate_enter(const char *host, int64_t wait_ms)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME,
                  &until); /* the condition's clock; a jump only makes it look early */
    until.tv_nsec += (long)(wait_ms % 1000) * 1000000;
    until.tv_sec += (time_t)(wait_ms / 1000 + until.tv_nsec / 1000000000);
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&ssh_gates.lock);
    bool in = gate_take(host);
    if (!in) {
        pthread_cond_timedwait(&ssh_gates.freed, &ssh_gates.lock, &until);
        in = gate_take(host);
    }
    pthread_mutex_unlock(&ssh_gates.lock);
    return in;
}

void
gate_leave(const char *host)
{
    pthread_mutex_lock(&ssh_gates.lock);
    struct gate **link = gate_find(host);
    struct gate *g = *link;
    if (--g->taken == 0) {
        *link = g->next;
        free(g);
    }
    pthread_cond_broadcast(&ssh_gates.freed);
    pthread_mutex_unlock(&ssh_gates.lock);
}
