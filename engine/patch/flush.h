/*
 * Files that are finished, on their way to the disk: each worker has one of these. It hands them over in batches,
 * whose data is on its way already: the first one's journal commit is the commit of all. Batches are flushed by
 * threads of their own while the worker goes on, since each file waits for an answer of the disk, also one in
 * which nothing differed; what several threads ask of a disk at once it answers at once. All patches of a process
 * together hold half of its descriptors at most so, however slow the disks are: what is finished beyond that the
 * worker flushes itself.
 *
 * A failed flush fails the run. Such a file is dropped from the cache, so that a rerun compares what the disk
 * holds and not what it was to hold.
 */
#ifndef MOONRISE_PATCH_FLUSH_H
#define MOONRISE_PATCH_FLUSH_H

#include "run.h"

#define PATCH_FLUSH_FILES   32
#define PATCH_FLUSH_BATCHES 4 /* three are flushed at once, the fourth is filled */

/* A finished file. The descriptor is the one that wrote it: it is told of errors since it was opened. */
struct patch_finished {
    int fd;
    const struct patch_dir *dir;
    const char *name;
};

struct patch_batch {
    struct patch_run *run;
    struct patch_finished files[PATCH_FLUSH_FILES];
    int count;
    pthread_t thread; /* whose the batch is while it runs */
    bool running;
};

struct patch_flush {
    struct patch_batch
        batches[PATCH_FLUSH_BATCHES]; /* a ring: one is filled, those before it leave */
    int filling;
    int most; /* files in a batch: one, once descriptors have run out */
};

void patch_flush_init(struct patch_flush *f, struct patch_run *run);

/* Takes the file over, and closes its descriptor some time: before it returns where too many are held. */
void patch_flush_add_take(struct patch_flush *f, const struct patch_finished *file);

/* Waits until all that was added is flushed, or closed without that where the run has stopped. False when there
 * was nothing. */
bool patch_flush_wait(struct patch_flush *f);

/* The process has no descriptor left: waits as above, and from now on for each file as it is added. */
bool patch_flush_starve(struct patch_flush *f);

#endif
