#include "flush.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* Of the descriptors that the process may have, finished files hold one in so many at most: what opens files,
 * sockets and pipes beside the patches does not wait for one. */
#define FLUSH_SHARE 2

/* The finished files of all patches of the process that are open. */
static atomic_ulong flush_held;

void
patch_flush_init(struct patch_flush *f, struct patch_run *run)
{
    memset(f, 0, sizeof(*f));
    for (int i = 0; i < PATCH_FLUSH_BATCHES; i++)
        f->batches[i].run = run;
    f->most = PATCH_FLUSH_FILES;
}

static void
flush_failed(struct patch_run *run, const struct patch_finished *file, int sys)
{
    struct err e;
    char *path = patch_target_path(&run->target, file->dir->root, file->dir->path, file->name);
    posix_fadvise(file->fd, 0, 0, POSIX_FADV_DONTNEED);
    err_sys(&e, sys, "cannot flush %s", path);
    patch_run_fail(run, &e);
    free(path);
}

static void
flush_file(struct patch_run *run, const struct patch_finished *file)
{
    if (!patch_run_stopped(run) && fsync(file->fd) != 0)
        flush_failed(run, file, errno);
    close(file->fd);
    atomic_fetch_sub(&flush_held, 1);
}

static void *
flush_batch(void *arg)
{
    struct patch_batch *b = arg;
    for (int i = 0; i < b->count; i++)
        flush_file(b->run, &b->files[i]);
    return NULL;
}

/* Whether there was something to wait for. */
static bool
flush_join(struct patch_batch *b)
{
    bool running = b->running;
    if (running) {
        pthread_join(b->thread, NULL);
        b->running = false;
        b->count = 0;
    }
    return running;
}

/* Where no thread can be had the worker flushes. */
static void
flush_leave(struct patch_flush *f)
{
    struct patch_batch *b = &f->batches[f->filling];
    b->running = f->most > 1 && pthread_create(&b->thread, NULL, flush_batch, b) == 0;
    if (!b->running) {
        flush_batch(b);
        b->count = 0;
    }
    f->filling = (f->filling + 1) % PATCH_FLUSH_BATCHES;
    flush_join(&f->batches[f->filling]);
}

/* Counts one more; false where that is more than the share. */
static bool
flush_hold(void)
{
    struct rlimit files;
    unsigned long held = atomic_fetch_add(&flush_held, 1) + 1;
    return getrlimit(RLIMIT_NOFILE, &files) != 0 || held <= files.rlim_cur / FLUSH_SHARE;
}

void
patch_flush_add_take(struct patch_flush *f, const struct patch_finished *file)
{
    struct patch_batch *b = &f->batches[f->filling];
    if (!flush_hold()) {
        flush_file(b->run, file);
        return;
    }
    b->files[b->count++] = *file;
    if (b->count >= f->most)
        flush_leave(f);
}

bool
patch_flush_wait(struct patch_flush *f)
{
    bool any = f->batches[f->filling].count > 0;
    if (any)
        flush_leave(f);
    for (int i = 0; i < PATCH_FLUSH_BATCHES; i++)
        any |= flush_join(&f->batches[i]);
    return any;
}

bool
patch_flush_starve(struct patch_flush *f)
{
    f->most = 1;
    return patch_flush_wait(f);
}
