/*
 * What patch_run asks of the system, call by call: flushes of files, which go on beside the copy, and which pages
 * are in the page cache. The functions of the C library stand here instead of its own, and pass the calls on.
 */
#include "../../engine/patch/io.h"
#include "../lib/moment.h"

#include "moonrise/patch/source.h"

#include "patch_setup.h"

#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#define FILES      300
#define BATCH      32
#define WAIT_MS    10000
#define CACHE_PAGE 4096

/* Of these half is for finished files. Each of the copies may have a few more open: those it works on. */
#define FEW_DESCRIPTORS 160
#define MOST_OPEN       (FEW_DESCRIPTORS / 2 + 20)

/* What was asked for; threads write it. */
static struct {
    atomic_int flushes;                /* of regular files */
    atomic_int unconfirmed;            /* those that have not returned */
    atomic_int dropped;                /* files from the cache */
    atomic_int questions;              /* about pages of the cache */
    ino_t broken;                      /* what cannot be flushed */
    struct patch_progress *held_until; /* has ended more files than one batch */
    atomic_bool held_up;               /* for longer than that should take */
    int slow_us;                       /* what each flush takes at least */
    atomic_int most_open;              /* regular files at once, as seen by flushes */
} seen;

/* False when that takes too long: whoever flushes keeps the others waiting. */
static bool
wait_for_more(struct patch_progress *p)
{
    int ms = 0;
    while (atomic_load(&p->files_done) <= BATCH && ms++ < WAIT_MS && !atomic_load(&seen.held_up))
        moment_pass(1000);
    return atomic_load(&p->files_done) > BATCH;
}

static bool
is_file(int fd, struct stat *st)
{
    return fstat(fd, st) == 0 && S_ISREG(st->st_mode);
}

/* The disk takes its time, and files are finished meanwhile. */
static void
take_time(void)
{
    struct stat st;
    int count = 0;
    moment_pass(seen.slow_us);
    for (int fd = 0; fd < FEW_DESCRIPTORS; fd++)
        count += is_file(fd, &st);
    int most = atomic_load(&seen.most_open);
    while (most < count && !atomic_compare_exchange_weak(&seen.most_open, &most, count))
        continue;
}

int
fsync(int fd)
{
    struct stat st;
    if (!is_file(fd, &st))
        return (int)syscall(SYS_fsync, fd);
    atomic_fetch_add(&seen.flushes, 1);
    atomic_fetch_add(&seen.unconfirmed, 1);
    if (seen.held_until && !wait_for_more(seen.held_until))
        atomic_store(&seen.held_up, true);
    if (seen.slow_us)
        take_time();
    int rc = (int)syscall(SYS_fsync, fd);
    atomic_fetch_sub(&seen.unconfirmed, 1);
    errno = st.st_ino == seen.broken ? EIO : errno;
    return st.st_ino == seen.broken ? -1 : rc;
}

int
posix_fadvise(int fd, off_t offset, off_t len, int advice)
{
    struct stat st;
    if (advice == POSIX_FADV_DONTNEED && is_file(fd, &st) && st.st_ino == seen.broken)
        atomic_fetch_add(&seen.dropped, 1);
    return syscall(SYS_fadvise64, fd, offset, len, advice) == 0 ? 0 : errno;
}

int
mincore(void *from, size_t len, unsigned char *in)
{
    atomic_fetch_add(&seen.questions, 1);
    return (int)syscall(SYS_mincore, from, len, in);
}

/* Small files, equal on both sides. */
static void
many_files(struct tree *t, struct setup *s)
{
    memset(&seen, 0, sizeof(seen));
    tree_new(t, 96);
    tree_mkdir(t, "source/base/1");
    tree_mkdir(t, "target/base/1");
    for (int i = 0; i < FILES; i++) {
        char *from = tree_path(t, "source/base/1/%d", 20000 + i);
        char *to = tree_path(t, "target/base/1/%d", 20000 + i);
        tree_write(t, from, 8192, false);
        tree_copy_file(from, to, 0600);
        free(from);
        free(to);
    }
    setup_init(s, t, PATCH_DIFFERENTIAL);
    s->spec.target_flushed = true;
}

/* Each file is flushed, though nothing differs, and all of them before the patch is done. */
static void
test_flushes_all(void **state)
{
    (void)state;
    struct tree t;
    struct setup s;
    many_files(&t, &s);
    run_well(&s);
    assert_int_equal(s.progress.bytes_written, 0);
    assert_int_equal(seen.flushes, FILES);
    assert_int_equal(seen.unconfirmed, 0);
    setup_done(&s);
    tree_free(&t);
}

/* While the disk takes its time for some files the next ones are compared. */
static void
test_goes_on_meanwhile(void **state)
{
    (void)state;
    struct tree t;
    struct setup s;
    many_files(&t, &s);
    s.spec.threads = 1;
    seen.held_until = &s.progress;
    run_well(&s);
    assert_false(seen.held_up);
    assert_int_equal(seen.flushes, FILES);
    assert_int_equal(seen.unconfirmed, 0);
    setup_done(&s);
    tree_free(&t);
}

/* NULL when it fails. */
static void *
run_beside(void *arg)
{
    struct setup *s = arg;
    return patch_run(&s->spec, NULL) == 0 ? s : NULL;
}

/* However slow the disk is, several patches together leave descriptors to others. */
static void
test_leaves_descriptors(void **state)
{
    (void)state;
    struct tree t[2];
    struct setup s[2];
    struct rlimit old;
    pthread_t beside;
    void *done;
    for (int i = 0; i < 2; i++) {
        many_files(&t[i], &s[i]);
        s[i].spec.threads = 2;
    }
    seen.slow_us = 2000;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    struct rlimit few = {.rlim_cur = FEW_DESCRIPTORS, .rlim_max = old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    assert_int_equal(pthread_create(&beside, NULL, run_beside, &s[1]), 0);
    run_well(&s[0]);
    pthread_join(beside, &done);
    assert_non_null(done);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    print_message("regular files open at once: %d\n", atomic_load(&seen.most_open));
    assert_in_range(seen.most_open, 1, MOST_OPEN);
    assert_int_equal(seen.flushes, 2 * FILES);
    for (int i = 0; i < 2; i++) {
        setup_done(&s[i]);
        tree_free(&t[i]);
    }
}

/* A flush that fails, fails the patch, also one of the last batch; the file is not taken for what the cache
 * says. */
static void
test_failed_flush(void **state)
{
    (void)state;
    for (int i = 0; i < FILES; i += FILES - 1) {
        struct tree t;
        struct setup s;
        struct stat st;
        struct err e = {0};
        many_files(&t, &s);
        char *path = tree_path(&t, "target/base/1/%d", 20000 + i);
        assert_int_equal(stat(path, &st), 0);
        seen.broken = st.st_ino;
        assert_int_equal(patch_run(&s.spec, &e), ERR_IO);
        assert_non_null(strstr(e.message, "cannot flush"));
        assert_non_null(strstr(e.message, path));
        assert_int_equal(seen.dropped, 1);
        assert_int_equal(seen.unconfirmed, 0);
        seen.broken = 0;
        run_well(&s);
        free(path);
        setup_done(&s);
        tree_free(&t);
    }
}

/* Takes a file of one range out of the cache, but for some pages that are read again. False where that cannot be
 * done: on a file system that is in memory. */
static bool
cache_only(const char *path, const int *pages, int count)
{
    unsigned char in;
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0 && fsync(fd) == 0);
    assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM), 0);
    void *map = mmap(NULL, PATCH_RANGE_BYTES, PROT_READ, MAP_SHARED, fd, 0);
    assert_true(map != MAP_FAILED && mincore(map, CACHE_PAGE, &in) == 0);
    munmap(map, PATCH_RANGE_BYTES);
    for (int i = 0; i < count; i++)
        assert_int_equal(pread(fd, &(char){0}, 1, (off_t)pages[i] * CACHE_PAGE), 1);
    close(fd);
    return (in & 1) == 0;
}

/* Reads the file; whether past the cache, and after how many questions about pages. */
static bool
reads_past(const char *path, int questions)
{
    struct patch_io io;
    struct patch_piece all = {aligned_alloc(PATCH_BUFFER_ALIGN, PATCH_RANGE_BYTES),
                              PATCH_RANGE_BYTES, 0};
    uint32_t got;
    patch_io_init(&io);
    assert_int_equal(patch_io_open_source(&io, AT_FDCWD, path, NULL), 0);
    seen.questions = 0;
    assert_int_equal(patch_io_read(&io, &all, &got, NULL), 0);
    assert_int_equal(got, PATCH_RANGE_BYTES);
    assert_int_equal(seen.questions, questions);
    bool past = atomic_load(&io.direct_fd) != -1;
    patch_io_close(&io);
    free(all.buf);
    return past;
}

/* What is not in the cache, but for a page, is read past it. Of what is in it two pages are asked for. */
static void
test_asks_for_few_pages(void **state)
{
    (void)state;
    static const int ends[] = {0, 240};
    struct tree t;
    tree_new(&t, 95);
    tree_mkdir(&t, "source");
    char *path = tree_path(&t, "source/20000");
    tree_write(&t, path, PATCH_RANGE_BYTES, false);
    assert_false(reads_past(path, 2));
    bool can = cache_only(path, NULL, 0);
    if (can) {
        assert_true(reads_past(path, 16));
        cache_only(path, ends, 1);
        assert_true(reads_past(path, 16));
        cache_only(path, ends, 2);
        assert_false(reads_past(path, 16));
    }
    free(path);
    tree_free(&t);
    if (!can)
        skip();
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flushes_all),        cmocka_unit_test(test_goes_on_meanwhile),
        cmocka_unit_test(test_leaves_descriptors), cmocka_unit_test(test_failed_flush),
        cmocka_unit_test(test_asks_for_few_pages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
