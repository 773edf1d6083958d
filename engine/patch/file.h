/*
 * A file that is being copied: opened by the first worker that has a range of it, finished (cut to its
 * size, given its mode, flushed) by the one that ends its last range. Workers work on ranges of the same
 * file at the same time.
 */
#ifndef MOONRISE_PATCH_FILE_H
#define MOONRISE_PATCH_FILE_H

#include "flush.h"
#include "run.h"

/* What a worker has of its own. */
struct patch_worker {
    struct patch_run *run;
    uint8_t *source_bytes; /* PATCH_RANGE_BYTES, aligned */
    uint8_t *target_bytes; /* the same */
    const struct patch_dir *dir;
    int dir_fd; /* the target's `dir`, kept for the next file in it, or -1 */
    struct patch_flush flush;
    void *stream;                               /* to the source */
    uint32_t window;                            /* how many ranges may be asked for at once */
    struct patch_range asked[PATCH_WINDOW_MAX]; /* a ring: those that have no answer yet */
    uint32_t asked_first;
    uint32_t asked_count;
};

/* Opens the worker's stream; patch_worker_done also after a failure. */
int patch_worker_init(struct patch_worker *w, struct patch_run *run, struct err *e);

/* Waits until the finished files are flushed (unless the run has stopped) and frees everything. */
void patch_worker_done(struct patch_worker *w);

/* The file of an entry, to be worked on in `ranges` ranges. */
struct patch_file *patch_file_new(const struct patch_dir *dir, uint32_t at,
                                  const struct patch_entry *entry, uint32_t ranges);

/* Asks the source for one range: *asked is false where nothing is to be asked, and the range is done with.
 * ERR_BUSY, with questions open: there is no descriptor left; to be called again after an answer. */
int patch_file_ask(struct patch_worker *w, const struct patch_range *r, bool *asked, struct err *e);

/* Takes the answer to the oldest question and makes that range, *r, equal. */
int patch_file_answer(struct patch_worker *w, struct patch_range *r, struct err *e);

/* Gives one range back, worked on or not; the last one finishes the file, if the run has not stopped,
 * and frees it. `w` is NULL after the workers have ended. */
int patch_file_release(struct patch_run *run, struct patch_worker *w, struct patch_file *f,
                       struct err *e);

#endif
