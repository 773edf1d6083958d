#include "file.h"

#include "io.h"
#include "moonrise/base/str.h"
#include "names.h"
#include "walk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* How long a worker waits for descriptors that others have. */
#define STARVED_MS       30000
#define STARVED_PAUSE_MS 10

enum file_state { FILE_NEW, FILE_OPEN, FILE_GONE, FILE_FAILED };

struct patch_file {
    const struct patch_dir *dir;
    uint32_t at;
    const char *name;
    uint32_t mode;
    uint64_t size; /* when the source listed it: what it has grown by since is in the WAL */
    atomic_uint ranges_left;
    void *source;
    struct patch_io io;
    bool fresh;     /* empty when it was opened: what is not written reads as zeros */
    bool allocated; /* and these have their place on the disk */
    pthread_mutex_t lock;
    enum file_state state;
    uint64_t end; /* the size to leave: smaller than `size` when the source was cut meanwhile */
};

struct patch_file *
patch_file_new(const struct patch_dir *dir, uint32_t at, const struct patch_entry *entry,
               uint32_t ranges)
{
    struct patch_file *f = mem_zalloc(sizeof(*f));
    f->dir = dir;
    f->at = at;
    f->name = entry->name;
    f->mode = entry->mode;
    f->size = entry->size;
    f->end = entry->size;
    atomic_init(&f->ranges_left, ranges);
    pthread_mutex_init(&f->lock, NULL);
    patch_io_init(&f->io);
    return f;
}

/* Puts the target's path before a failure. */
static int
file_wrap(const struct patch_run *run, const struct patch_file *f, struct err *e)
{
    char *path = patch_target_path(&run->target, f->dir->root, f->dir->path, f->name);
    int rc = err_wrap(e, "%s", path);
    free(path);
    return rc;
}

static int
worker_dir(struct patch_worker *w, const struct patch_dir *dir, struct err *e)
{
    if (w->dir == dir && w->dir_fd >= 0)
        return 0;
    if (w->dir_fd >= 0)
        close(w->dir_fd);
    w->dir = dir;
    w->dir_fd = patch_target_dir(&w->run->target, dir);
    return w->dir_fd < 0 ? err_sys(e, errno, "cannot open its directory") : 0;
}

/* Makes room for a regular file of our own: not a link, not a device, and not a file that has another
 * name elsewhere, which a write would change too. */
static int
file_clear_way(struct patch_worker *w, const struct patch_file *f, struct err *e)
{
    struct stat st;
    if (fstatat(w->dir_fd, f->name, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return errno == ENOENT ? 0 : err_sys(e, errno, "cannot look at it");
    if (S_ISREG(st.st_mode) && st.st_nlink == 1) {
        if ((st.st_mode & 0600) != 0600 && fchmodat(w->dir_fd, f->name, 0600, 0) != 0)
            return err_sys(e, errno, "cannot change its mode");
        return 0;
    }
    char *dir = patch_class_path(w->run->spec, f->dir->root, f->dir->path);
    char *path = patch_join(dir, f->name);
    int rc = patch_remove(w->dir_fd, f->name, path, NULL, e);
    free(path);
    free(dir);
    return rc;
}

static int
file_open_target(struct patch_worker *w, struct patch_file *f, struct err *e)
{
    bool full = w->run->spec->type == PATCH_FULL;
    int rc = worker_dir(w, f->dir, e);
    if (rc == 0)
        rc = file_clear_way(w, f, e);
    if (rc == 0)
        rc = patch_io_open(&f->io, w->dir_fd, f->name, full, e);
    if (rc)
        return rc;
    f->fresh = f->io.size == 0;
    if (!f->fresh && !w->run->spec->target_flushed)
        patch_io_forget(&f->io);
    if (f->io.size < f->size && f->size > PATCH_RANGE_BYTES) {
        rc = patch_io_allocate(&f->io, f->size, e);
        f->allocated = true;
    }
    return rc;
}

/* One attempt at opening both sides; what it has opened before a failure is closed again. */
static int
file_open(struct patch_worker *w, struct patch_file *f, struct err *e)
{
    struct patch_name name = {f->dir->root, f->dir->path, f->name, f->size};
    struct patch_source *source = w->run->source;
    int rc = source->open(source, &f->source, &name, e);
    if (rc == ERR_NOTFOUND)
        f->state = FILE_GONE;
    if (rc)
        return rc == ERR_NOTFOUND ? 0 : rc;
    rc = file_open_target(w, f, e);
    if (rc == 0) {
        f->state = FILE_OPEN;
        return 0;
    }
    file_wrap(w->run, f, e);
    patch_io_close(&f->io);
    source->close(source, f->source);
    f->source = NULL;
    return rc;
}

/* The process has no descriptor left: gives back what this worker has, else waits for the others, also those
 * of other recoveries. Who has a file open ends it without a further descriptor; so a worker whose questions
 * are open takes their answers first. */
static int
worker_starved(struct patch_worker *w, int *waited_ms, struct err *e)
{
    if (w->dir_fd >= 0)
        close(w->dir_fd);
    w->dir_fd = -1;
    if (patch_flush_starve(&w->flush))
        return 0;
    if (w->asked_count)
        return ERR_BUSY;
    if (*waited_ms >= STARVED_MS || patch_run_stopped(w->run))
        return e->code;
    nanosleep(&(struct timespec){.tv_nsec = STARVED_PAUSE_MS * 1000000L}, NULL);
    *waited_ms += STARVED_PAUSE_MS;
    return 0;
}

/* Opens both sides, once. Who comes after a failure says nothing: the first one does. */
static int
file_begin(struct patch_worker *w, struct patch_file *f, struct err *e)
{
    bool starved;
    int waited_ms = 0;
    int rc;
    do {
        rc = 0;
        pthread_mutex_lock(&f->lock);
        if (f->state == FILE_NEW)
            rc = file_open(w, f, e);
        starved = rc && (e->sys_errno == EMFILE || e->sys_errno == ENFILE);
        if (rc && !starved)
            f->state = FILE_FAILED;
        /* Not held while waiting: who waits for it may have descriptors to give back, too. */
        pthread_mutex_unlock(&f->lock);
        if (starved)
            rc = worker_starved(w, &waited_ms, e);
    } while (starved && rc == 0);
    return rc;
}

static bool
unit_is_zero(const uint8_t *p, size_t len)
{
    return p[0] == 0 && memcmp(p, p + 1, len - 1) == 0;
}

/* Whether the unit has to be written: what was allocated anew is zeros already. */
static bool
file_needs(const struct patch_file *f, const struct patch_answer *a, uint32_t unit)
{
    uint32_t from = unit * PATCH_UNIT_BYTES;
    if (from >= a->bytes || !a->differs[unit])
        return false;
    uint32_t len = a->bytes - from < PATCH_UNIT_BYTES ? a->bytes - from : PATCH_UNIT_BYTES;
    return !f->fresh || !f->allocated || !unit_is_zero(a->data + from, len);
}

/* Writes each run of units that differ in one piece. */
static int
file_write(struct patch_run *run, struct patch_file *f, uint64_t offset,
           const struct patch_answer *a, struct err *e)
{
    struct patch_progress *p = run->progress;
    for (uint32_t i = 0; i < PATCH_RANGE_UNITS && i * PATCH_UNIT_BYTES < a->bytes;) {
        if (!file_needs(f, a, i)) {
            i++;
            continue;
        }
        uint32_t from = i * PATCH_UNIT_BYTES;
        while (i < PATCH_RANGE_UNITS && file_needs(f, a, i))
            i++;
        uint32_t to = i * PATCH_UNIT_BYTES < a->bytes ? i * PATCH_UNIT_BYTES : a->bytes;
        int rc = patch_io_write(&f->io, a->data + from, to - from, offset + from, e);
        if (rc)
            return file_wrap(run, f, e);
        atomic_fetch_add_explicit(&p->bytes_written, to - from, memory_order_relaxed);
    }
    return 0;
}

static uint64_t
file_different_bytes(const struct patch_answer *a)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < PATCH_RANGE_UNITS && i * PATCH_UNIT_BYTES < a->bytes; i++) {
        uint32_t left = a->bytes - i * PATCH_UNIT_BYTES;
        if (a->differs[i])
            sum += left < PATCH_UNIT_BYTES ? left : PATCH_UNIT_BYTES;
    }
    return sum;
}

static void
worker_count(struct patch_worker *w, const struct patch_range *r)
{
    atomic_fetch_add_explicit(&w->run->progress->bytes_done, r->bytes, memory_order_relaxed);
}

int
patch_file_ask(struct patch_worker *w, const struct patch_range *r, bool *asked, struct err *e)
{
    struct patch_file *f = r->file;
    int rc = file_begin(w, f, e);
    *asked = false;
    if (rc || f->state != FILE_OPEN || r->bytes == 0) {
        if (rc != ERR_BUSY)
            worker_count(w, r);
        return rc;
    }
    struct patch_ask ask = {
        .file = f->source, .offset = r->offset, .bytes = r->bytes, .have = w->target_bytes};
    struct patch_piece piece = {w->target_bytes, r->bytes, r->offset};
    if (!f->fresh && r->offset < f->io.size && patch_io_read(&f->io, &piece, &ask.have_bytes, e))
        return file_wrap(w->run, f, e);
    *asked = true;
    w->asked[(w->asked_first + w->asked_count++) % PATCH_WINDOW_MAX] = *r;
    return w->run->source->ask(w->stream, &ask, e);
}

/* Somebody else may find out at the same time. What has been written of it goes with it. */
static void
file_gone(struct patch_file *f)
{
    pthread_mutex_lock(&f->lock);
    if (f->state == FILE_OPEN)
        f->state = FILE_GONE;
    pthread_mutex_unlock(&f->lock);
}

/* The source was cut meanwhile. */
static void
file_cut(struct patch_file *f, uint64_t end)
{
    pthread_mutex_lock(&f->lock);
    if (f->end > end)
        f->end = end;
    pthread_mutex_unlock(&f->lock);
}

static int
file_take(struct patch_worker *w, const struct patch_range *r, struct err *e)
{
    struct patch_run *run = w->run;
    struct patch_file *f = r->file;
    struct patch_answer answer = {.data = w->source_bytes};
    int rc = run->source->answer(w->stream, &answer, e);
    if (rc)
        return rc;
    if (answer.gone) {
        file_gone(f);
        return 0;
    }
    must(answer.bytes <= r->bytes);
    if (answer.bytes < r->bytes)
        file_cut(f, r->offset + answer.bytes);
    uint64_t different = file_different_bytes(&answer);
    if (different == 0)
        return 0;
    atomic_fetch_add_explicit(&run->progress->bytes_different, different, memory_order_relaxed);
    return file_write(run, f, r->offset, &answer, e);
}

int
patch_file_answer(struct patch_worker *w, struct patch_range *r, struct err *e)
{
    *r = w->asked[w->asked_first];
    w->asked_first = (w->asked_first + 1) % PATCH_WINDOW_MAX;
    w->asked_count--;
    int rc = patch_run_stopped(w->run) ? 0 : file_take(w, r, e);
    worker_count(w, r);
    return rc;
}

/* Every file is flushed, also one in which nothing differed: an earlier run, or the server that used it,
 * may have left it in the cache only. */
static int
file_finish(struct patch_worker *w, struct patch_file *f, struct err *e)
{
    struct stat st;
    int rc = 0;
    if (fstat(f->io.fd, &st) != 0)
        rc = err_sys(e, errno, "cannot look at it");
    if (rc == 0 && (uint64_t)st.st_size != f->end)
        rc = patch_io_resize(&f->io, f->end, e);
    if (rc == 0 && (st.st_mode & 0777) != f->mode && fchmod(f->io.fd, f->mode) != 0)
        rc = err_sys(e, errno, "cannot change its mode");
    if (rc)
        return file_wrap(w->run, f, e);
    patch_io_start_flush(&f->io);
    struct patch_finished finished = {patch_io_take(&f->io), f->dir, f->name};
    patch_flush_add_take(&w->flush, &finished);
    return 0;
}

int
patch_file_release(struct patch_run *run, struct patch_worker *w, struct patch_file *f,
                   struct err *e)
{
    if (atomic_fetch_sub_explicit(&f->ranges_left, 1, memory_order_acq_rel) != 1)
        return 0;
    int rc = 0;
    if (f->state == FILE_GONE) {
        patch_list_mark(run->list, f->at, PATCH_ENTRY_GONE);
        atomic_store(&run->gone, true);
    } else if (f->state == FILE_OPEN && w && !patch_run_stopped(run)) {
        rc = file_finish(w, f, e);
    }
    if (rc == 0)
        atomic_fetch_add_explicit(&run->progress->files_done, 1, memory_order_relaxed);
    if (f->source)
        run->source->close(run->source, f->source);
    patch_io_close(&f->io);
    pthread_mutex_destroy(&f->lock);
    free(f);
    return rc;
}

static bool
worker_stopped(void *run)
{
    return patch_run_stopped(run);
}

int
patch_worker_init(struct patch_worker *w, struct patch_run *run, struct err *e)
{
    *w = (struct patch_worker){.run = run, .dir_fd = -1};
    patch_flush_init(&w->flush, run);
    w->source_bytes = aligned_alloc(PATCH_BUFFER_ALIGN, PATCH_RANGE_BYTES);
    w->target_bytes = aligned_alloc(PATCH_BUFFER_ALIGN, PATCH_RANGE_BYTES);
    must(w->source_bytes && w->target_bytes);
    struct patch_link link = {worker_stopped, run, run->progress};
    int rc = run->source->connect(run->source, &w->stream, &w->window, &link, e);
    must(rc || (w->window > 0 && w->window <= PATCH_WINDOW_MAX));
    return rc;
}

void
patch_worker_done(struct patch_worker *w)
{
    patch_flush_wait(&w->flush);
    w->run->source->disconnect(w->stream);
    if (w->dir_fd >= 0)
        close(w->dir_fd);
    free(w->source_bytes);
    free(w->target_bytes);
}
