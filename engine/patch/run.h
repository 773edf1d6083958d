/*
 * One run of a patch: what its parts share. Internal to engine/patch.
 *
 * The driver's thread owns everything but what is marked otherwise; workers read the spec, the list and
 * the target's roots, which do not change while they run.
 */
#ifndef MOONRISE_PATCH_RUN_H
#define MOONRISE_PATCH_RUN_H

#include "list.h"
#include "moonrise/base/err.h"
#include "moonrise/patch/patch.h"
#include "queue.h"
#include "rate.h"
#include "target.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

struct patch_run {
    const struct patch_spec *spec;
    struct patch_progress *progress; /* never NULL */
    struct patch_source *source;
    struct patch_list *list;
    struct patch_target target;
    struct patch_queue queue; /* shared */
    struct patch_rate rate;   /* shared */
    atomic_bool stop;         /* shared: somebody failed, or the patch is cancelled */
    atomic_bool gone;         /* shared: some entry was marked PATCH_ENTRY_GONE */
    pthread_mutex_t lock;     /* guards the two below */
    int code;
    struct err first; /* the first failure; the others are its consequences */
};

/* Records a failure and makes everybody stop. */
void patch_run_fail(struct patch_run *run, const struct err *why);

/* Whether to stop; notices a cancelled patch. */
bool patch_run_stopped(struct patch_run *run);

/* Deletes what the target has and the source has not. Called again when files of the source are gone. */
int patch_run_delete(struct patch_run *run, struct err *e);

#endif
