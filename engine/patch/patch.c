#include "moonrise/patch/patch.h"

#include "admit.h"
#include "file.h"
#include "moonrise/base/str.h"
#include "moonrise/patch/source.h"
#include "moonrise/pg/control.h"
#include "names.h"
#include "places.h"
#include "run.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

struct crew_member {
    pthread_t thread;
    struct patch_run *run;
};

void
patch_run_fail(struct patch_run *run, const struct err *why)
{
    pthread_mutex_lock(&run->lock);
    if (run->code == 0) {
        run->code = why->code;
        run->first = *why;
    }
    pthread_mutex_unlock(&run->lock);
    atomic_store(&run->stop, true);
    patch_queue_abort(&run->queue);
}

bool
patch_run_stopped(struct patch_run *run)
{
    if (atomic_load_explicit(&run->stop, memory_order_relaxed))
        return true;
    const atomic_bool *cancel = run->spec->cancel;
    if (!cancel || !atomic_load_explicit(cancel, memory_order_relaxed))
        return false;
    struct err e;
    err_set(&e, ERR_CANCELLED, "the copy to %s was cancelled", run->spec->target_dir);
    patch_run_fail(run, &e);
    return true;
}

static bool
run_stopped(void *run)
{
    return patch_run_stopped(run);
}

/* The next range to be asked for. A worker waits for one only while no answer is owed to it. */
static bool
crew_next(struct patch_worker *w, struct patch_range *r)
{
    if (w->asked_count >= w->window)
        return false;
    return w->asked_count ? patch_queue_try(&w->run->queue, r) : patch_queue_pop(&w->run->queue, r);
}

/* One question. False: it could not be asked for want of descriptors, and is asked again later. */
static bool
crew_ask(struct patch_worker *w, const struct patch_range *r)
{
    struct patch_run *run = w->run;
    struct err e = {0};
    bool asked = false;
    int rc = patch_run_stopped(run) ? 0 : patch_file_ask(w, r, &asked, &e);
    if (rc == ERR_BUSY)
        return false;
    if (rc)
        patch_run_fail(run, &e);
    if (!asked && patch_file_release(run, w, r->file, &e))
        patch_run_fail(run, &e);
    return true;
}

static void
crew_answer(struct patch_worker *w)
{
    struct patch_run *run = w->run;
    struct patch_range r;
    struct err e = {0};
    if (patch_file_answer(w, &r, &e))
        patch_run_fail(run, &e);
    if (patch_file_release(run, w, r.file, &e))
        patch_run_fail(run, &e);
}

/* A worker: ranges until there are none, those that are asked for next before the answers to the last. Where
 * the rate has it wait the answers come first: at a low one a window of questions takes longer than a source
 * waits for somebody to take its answers. */
static void
crew_copy(struct patch_worker *w)
{
    struct patch_run *run = w->run;
    struct patch_range r;
    bool held = false, paid = false;
    for (;;) {
        while (held || crew_next(w, &r)) {
            held = true;
            if (!paid && w->asked_count && patch_rate_waits(&run->rate))
                break;
            if (!paid)
                patch_rate_take(&run->rate, r.bytes, run_stopped, run);
            paid = true;
            if (!crew_ask(w, &r))
                break;
            held = paid = false;
        }
        if (w->asked_count == 0) {
            must(!held); /* a range is put off only until an answer has come */
            return;
        }
        crew_answer(w);
    }
}

static void *
crew_work(void *arg)
{
    const struct crew_member *member = arg;
    struct patch_run *run = member->run;
    struct patch_worker w;
    struct err e = {0};
    if (patch_worker_init(&w, run, &e))
        patch_run_fail(run, &e);
    else
        crew_copy(&w);
    patch_worker_done(&w);
    return NULL;
}

/* Cuts one file into ranges; an empty file is one range of no bytes. */
static void
run_cut_file(struct patch_run *run, const struct patch_dir *dir, uint32_t at,
             const struct patch_entry *entry)
{
    uint64_t ranges = (entry->size + PATCH_RANGE_BYTES - 1) / PATCH_RANGE_BYTES;
    if (ranges == 0)
        ranges = 1;
    struct patch_file *file = patch_file_new(dir, at, entry, (uint32_t)ranges);
    struct err ignored;
    for (uint64_t i = 0; i < ranges; i++) {
        struct patch_range r = {.file = file, .offset = i * PATCH_RANGE_BYTES};
        uint64_t left = entry->size - r.offset;
        r.bytes = (uint32_t)(left < PATCH_RANGE_BYTES ? left : PATCH_RANGE_BYTES);
        if (!patch_queue_push(&run->queue, &r))
            patch_file_release(run, NULL, file, &ignored);
    }
}

static void
run_cut(struct patch_run *run)
{
    for (uint32_t i = 0; i < patch_list_dirs(run->list); i++) {
        const struct patch_dir *dir = patch_list_dir_at(run->list, i);
        struct patch_entry entry;
        for (uint32_t at = dir->first; at < dir->end; at = entry.next) {
            if (patch_run_stopped(run))
                return;
            patch_list_entry(run->list, at, &entry);
            if (!(entry.flags & PATCH_ENTRY_OTHER))
                run_cut_file(run, dir, at, &entry);
        }
    }
}

int
patch_threads(const struct patch_spec *spec)
{
    long threads = spec->threads;
    if (threads <= 0 && spec->source) {
        threads = sysconf(_SC_NPROCESSORS_ONLN);
        threads =
            threads > 2 ? threads : 2; /* a disk has something to do while one of them hashes */
    }
    return threads > 0 && threads < PATCH_THREADS_MAX ? (int)threads : PATCH_THREADS_MAX;
}

/* Runs the workers and feeds them. */
static int
run_copy(struct patch_run *run, struct err *e)
{
    struct crew_member crew[PATCH_THREADS_MAX];
    int wanted = patch_threads(run->spec);
    int started = 0;
    for (; started < wanted; started++) {
        crew[started].run = run;
        int sys = pthread_create(&crew[started].thread, NULL, crew_work, &crew[started]);
        if (sys && started == 0)
            return err_sys(e, sys, "cannot start a thread");
        if (sys)
            break;
    }
    run_cut(run);
    patch_queue_close(&run->queue);
    for (int i = 0; i < started; i++)
        pthread_join(crew[i].thread, NULL);
    struct patch_range left;
    struct err ignored;
    while (patch_queue_drain(&run->queue, &left))
        patch_file_release(run, NULL, left.file, &ignored);
    if (run->code)
        *e = run->first;
    return run->code;
}

/* The files have been flushed by the workers. Their names are in the directories. */
static int
run_flush_dirs(struct patch_run *run, struct err *e)
{
    for (uint32_t i = 0; i < patch_list_dirs(run->list); i++) {
        const struct patch_dir *dir = patch_list_dir_at(run->list, i);
        int fd = patch_target_dir(&run->target, dir);
        int rc = fd < 0 || fsync(fd) != 0 ? errno : 0;
        if (fd >= 0)
            close(fd);
        if (rc)
            return err_sys(e, rc, "cannot flush the directory %s of %s", dir->path,
                           run->spec->target_dir);
        if (patch_run_stopped(run))
            return err_set(e, ERR_CANCELLED, "cancelled");
    }
    return 0;
}

static void
run_stage(struct patch_run *run, enum patch_stage stage)
{
    atomic_store(&run->progress->stage, stage);
}

static int
run_list(struct patch_run *run, struct err *e)
{
    run_stage(run, PATCH_LISTING);
    int rc = run->source->list(run->source, run->list, e);
    if (rc == 0)
        rc = patch_list_sort(run->list, e);
    if (rc == 0)
        rc = patch_admit(run->list, run->spec, e);
    if (rc)
        return rc;
    const struct patch_dir *top = patch_list_find_dir(run->list, 0, "");
    if (!top)
        return err_set(e, ERR_FORMAT, "the source lists nothing");
    atomic_store(&run->progress->bytes_total, patch_list_bytes(run->list));
    atomic_store(&run->progress->files_total, patch_list_files(run->list));
    if (patch_run_stopped(run))
        return err_set(e, ERR_CANCELLED, "cancelled");
    return 0;
}

static int
run_all(struct patch_run *run, struct err *e)
{
    bool local = run->spec->source == NULL;
    int rc = patch_target_open(&run->target, run->spec, e);
    if (rc == 0)
        rc = run_list(run, e);
    if (rc == 0)
        rc = patch_target_prepare(&run->target, run->list, e);
    /* Links were made, or led to directories that did not exist: look where they lead now. */
    if (rc == 0)
        rc = patch_places_check(run->spec, local, e);
    if (rc)
        return rc;
    run_stage(run, PATCH_DELETING);
    rc = patch_run_delete(run, e);
    if (rc)
        return rc;
    run_stage(run, PATCH_COPYING);
    rc = run_copy(run, e);
    if (rc == 0 && atomic_load(&run->gone))
        rc = patch_run_delete(run, e);
    if (rc)
        return rc;
    run_stage(run, PATCH_FLUSHING);
    rc = run_flush_dirs(run, e);
    if (rc == 0)
        run_stage(run, PATCH_DONE);
    return rc;
}

int
patch_run(const struct patch_spec *spec, struct err *e)
{
    struct patch_progress nobody = {0};
    struct patch_run run = {.spec = spec, .progress = spec->progress, .source = spec->source};
    struct err own = {0};
    e = e ? e : &own;
    if (!run.progress)
        run.progress = &nobody;
    int rc = patch_places_check(spec, !run.source, e);
    if (rc == 0 && !run.source)
        rc = patch_source_local(&run.source, spec, e);
    if (rc)
        return rc;
    run.list = patch_list_new();
    pthread_mutex_init(&run.lock, NULL);
    patch_queue_init(&run.queue);
    patch_rate_init(&run.rate, spec->max_rate);
    rc = run_all(&run, e);
    patch_rate_done(&run.rate);
    patch_queue_done(&run.queue);
    pthread_mutex_destroy(&run.lock);
    patch_target_close(&run.target);
    patch_list_free(run.list);
    if (!spec->source)
        run.source->free(run.source);
    return rc;
}

/* Durable before anybody can see it: written beside, flushed, renamed, the directory flushed. */
static int
finish_write(int dir_fd, const uint8_t *image, struct err *e)
{
    const char *beside = "pg_control.new";
    if (unlinkat(dir_fd, beside, 0) != 0 && errno != ENOENT)
        return err_sys(e, errno, "cannot remove an old global/%s", beside);
    int fd = openat(dir_fd, beside, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_sys(e, errno, "cannot make global/%s", beside);
    int rc = 0;
    ssize_t n = pwrite(fd, image, CONTROL_FILE_BYTES, 0);
    if (n != CONTROL_FILE_BYTES)
        rc = err_sys(e, n < 0 ? errno : ENOSPC, "cannot write global/%s", beside);
    else if (fsync(fd) != 0)
        rc = err_sys(e, errno, "cannot flush global/%s", beside);
    close(fd);
    if (rc == 0 && renameat(dir_fd, beside, dir_fd, "pg_control") != 0)
        rc = err_sys(e, errno, "cannot rename global/%s", beside);
    if (rc == 0 && fsync(dir_fd) != 0)
        rc = err_sys(e, errno, "cannot flush the directory global");
    return rc;
}

int
patch_finish(const struct patch_spec *spec, struct err *e)
{
    struct patch_source *source = spec->source;
    uint8_t *image = mem_zalloc(CONTROL_FILE_BYTES);
    int rc = source ? 0 : patch_source_local(&source, spec, e);
    if (rc == 0)
        rc = source->control(source, image, e);
    int root = rc ? -1 : open(spec->target_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int dir = root < 0 ? -1 : patch_open_below(root, "global", false);
    if (rc == 0 && dir < 0)
        rc = err_sys(e, errno, "cannot open %s/global", spec->target_dir);
    if (rc == 0) {
        rc = finish_write(dir, image, e);
        if (rc)
            err_wrap(e, "%s", spec->target_dir);
    }
    if (dir >= 0)
        close(dir);
    if (root >= 0)
        close(root);
    if (!spec->source && source)
        source->free(source);
    free(image);
    return rc;
}
