/*
 * patch_run on random directories: whatever the target was like, afterwards it holds what the source
 * holds, nothing else, and nothing outside of it was touched. The comparison is the test's own.
 */
#include "moonrise/patch/patch.h"

#include "../lib/moment.h"
#include "patch_setup.h"

#include <pthread.h>
#include <sys/wait.h>

#include "patch_check.h"

static uint64_t
canary_sum(struct tree *t)
{
    char *path = tree_path(t, "outside/canary");
    uint64_t sum = 14695981039346656037ull;
    FILE *f = fopen(path, "r");
    for (int c; (c = fgetc(f)) != EOF;)
        sum = (sum ^ (uint64_t)c) * 1099511628211ull;
    fclose(f);
    free(path);
    return sum;
}

static void
test_random(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 12; seed++) {
        struct tree t;
        struct setup s;
        tree_new(&t, seed);
        tree_source(&t);
        tree_target(&t, seed % 2 == 0);
        uint64_t canary = canary_sum(&t);
        setup_init(&s, &t, seed % 3 == 0 ? PATCH_FULL : PATCH_DIFFERENTIAL);
        run_well(&s);
        assert_equal_trees(&t, true);
        assert_true(canary == canary_sum(&t));
        assert_int_equal(s.progress.bytes_done, s.progress.bytes_total);
        assert_int_equal(s.progress.files_done, s.progress.files_total);
        if (s.spec.type == PATCH_FULL) /* trusts nothing */
            assert_int_equal(s.progress.bytes_different, s.progress.bytes_total);
        /* Again: nothing is left to do. */
        memset(&s.progress, 0, sizeof(s.progress));
        s.spec.type = PATCH_DIFFERENTIAL;
        run_well(&s);
        assert_int_equal(s.progress.bytes_written, 0);
        assert_int_equal(s.progress.bytes_different, 0);
        assert_int_equal(s.progress.files_deleted, 0);
        setup_done(&s);
        tree_free(&t);
    }
}

static void
test_empty_target(void **state)
{
    (void)state;
    for (int type = PATCH_FULL; type <= PATCH_DIFFERENTIAL; type++) {
        struct tree t;
        struct setup s;
        tree_new(&t, 100);
        tree_source(&t);
        tree_mkdir(&t, "target");
        setup_init(&s, &t, (enum patch_type)type);
        run_well(&s);
        assert_equal_trees(&t, false);
        char to[PATH_MAX] = {0};
        char *link = tree_path(&t, "target/pg_wal");
        assert_true(readlink(link, to, sizeof(to) - 1) > 0);
        assert_string_equal(to, s.paths[4]);
        free(link);
        setup_done(&s);
        tree_free(&t);
    }
}

/* Only what differs is written: one block of a large file. */
static void
test_writes_little(void **state)
{
    (void)state;
    struct tree t;
    struct setup s;
    tree_new(&t, 7);
    tree_source(&t);
    char *big = tree_path(&t, "source/base/5/20000");
    char *copy = tree_path(&t, "target/base/5/20000");
    tree_write(&t, big, 600 * 8192, false);
    tree_mkdir(&t, "target");
    setup_init(&s, &t, PATCH_DIFFERENTIAL);
    run_well(&s);
    int fd = open(copy, O_WRONLY);
    assert_int_equal(pwrite(fd, "x", 1, 100 * 8192 + 77), 1);
    close(fd);
    memset(&s.progress, 0, sizeof(s.progress));
    run_well(&s);
    assert_int_equal(s.progress.bytes_written, 8192);
    assert_int_equal(s.progress.bytes_different, 8192);
    assert_equal_trees(&t, false);
    free(big);
    free(copy);
    setup_done(&s);
    tree_free(&t);
}

/* Sets the cancel flag when the progress has come to some byte. */
struct canceller {
    struct setup *s;
    uint64_t at;
    atomic_bool over;
};

static void *
cancel_at(void *arg)
{
    struct canceller *c = arg;
    while (!atomic_load(&c->over))
        if (atomic_load(&c->s->progress.bytes_done) >= c->at)
            atomic_store(&c->s->cancel, true);
    return NULL;
}

static void
test_cancelled_and_rerun(void **state)
{
    (void)state;
    int cancelled = 0;
    for (uint64_t seed = 200; seed < 209; seed++) {
        struct tree t;
        struct setup s;
        struct err e = {0};
        tree_new(&t, seed);
        tree_source(&t);
        tree_target(&t, true);
        setup_init(&s, &t, seed % 2 ? PATCH_FULL : PATCH_DIFFERENTIAL);
        struct canceller c = {.s = &s, .at = tree_random(&t, 40u << 20)};
        pthread_t thread;
        assert_int_equal(pthread_create(&thread, NULL, cancel_at, &c), 0);
        int rc = patch_run(&s.spec, &e);
        atomic_store(&c.over, true);
        pthread_join(thread, NULL);
        assert_true(rc == 0 || rc == ERR_CANCELLED);
        cancelled += rc == ERR_CANCELLED;
        atomic_store(&s.cancel, false);
        run_well(&s);
        assert_equal_trees(&t, true);
        setup_done(&s);
        tree_free(&t);
    }
    assert_true(cancelled > 1);
}

static void
test_killed_and_rerun(void **state)
{
    (void)state;
    int killed = 0;
    for (uint64_t seed = 300; seed < 308; seed++) {
        struct tree t;
        struct setup s;
        tree_new(&t, seed);
        tree_source(&t);
        tree_target(&t, false);
        setup_init(&s, &t, seed % 2 ? PATCH_FULL : PATCH_DIFFERENTIAL);
        for (int i = 0; i < 3; i++) {
            pid_t pid = fork();
            if (pid == 0)
                _exit(patch_run(&s.spec, NULL) == 0 ? 0 : 1);
            moment_pass(tree_random(&t, 30000)); /* a random point of it, whichever that is */
            kill(pid, SIGKILL);
            int status = 0;
            assert_int_equal(waitpid(pid, &status, 0), pid);
            killed += WIFSIGNALED(status);
            assert_true(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
        }
        run_well(&s);
        assert_equal_trees(&t, true);
        setup_done(&s);
        tree_free(&t);
    }
    assert_true(killed > 1);
}

/* A server at work: files grow, shrink, vanish and appear. */
struct writer {
    struct tree t;
    atomic_bool over;
};

static void *
write_all_the_while(void *arg)
{
    struct writer *w = arg;
    while (!atomic_load(&w->over)) {
        char below[64];
        snprintf(below, sizeof(below), "source/base/%d/%u", tree_random(&w->t, 2) ? 1 : 5,
                 16380 + tree_random(&w->t, 30));
        char *path = tree_path(&w->t, "%s", below);
        switch (tree_random(&w->t, 5)) {
        case 0:
            unlink(path);
            break;
        case 1:
            if (truncate(path, (off_t)tree_random(&w->t, 300000)) != 0)
                tree_file(&w->t, below);
            break;
        default:
            tree_file(&w->t, below);
            break;
        }
        free(path);
    }
    return NULL;
}

static void
test_source_changes_meanwhile(void **state)
{
    (void)state;
    struct writer w = {.over = false};
    struct setup s;
    tree_new(&w.t, 400);
    tree_source(&w.t);
    tree_target(&w.t, true);
    setup_init(&s, &w.t, PATCH_DIFFERENTIAL);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, write_all_the_while, &w), 0);
    for (int i = 0; i < 16; i++) {
        s.spec.type = i % 4 == 0 ? PATCH_FULL : PATCH_DIFFERENTIAL;
        run_well(&s);
    }
    atomic_store(&w.over, true);
    pthread_join(thread, NULL);
    run_well(&s);
    assert_equal_trees(&w.t, true);
    setup_done(&s);
    tree_free(&w.t);
}

static void
test_write_error_names_the_file(void **state)
{
    (void)state;
    struct tree t;
    struct setup s;
    struct err e = {0};
    tree_new(&t, 500);
    tree_source(&t);
    char *big = tree_path(&t, "source/base/5/20000");
    tree_write(&t, big, 900 * 8192, false);
    tree_mkdir(&t, "target");
    setup_init(&s, &t, PATCH_DIFFERENTIAL);
    assert_int_equal(run_on_small_disk(&s, 6u << 20, &e), ERR_IO);
    assert_non_null(strstr(e.message, "target/base/5/20000"));
    run_well(&s);
    assert_equal_trees(&t, false);
    free(big);
    setup_done(&s);
    tree_free(&t);
}

/* A page of zeros has its place on the disk, in a small file and in a big one, also where the source has a
 * hole: a relation was extended, and room was found for it. */
static void
test_holes_are_filled(void **state)
{
    (void)state;
    static const char *const names[] = {"base/1/20000", "base/1/20001"};
    static const off_t sizes[] = {3 * 8192, 3 << 20};
    for (int type = PATCH_FULL; type <= PATCH_DIFFERENTIAL; type++) {
        struct tree t;
        struct setup s;
        tree_new(&t, 99);
        tree_mkdir(&t, "source/base/1");
        tree_mkdir(&t, "source/global");
        tree_mkdir(&t, "target");
        for (int i = 0; i < 2; i++) {
            char *path = tree_path(&t, "source/%s", names[i]);
            int fd = open(path, O_WRONLY | O_CREAT, 0600);
            assert_int_equal(ftruncate(fd, sizes[i]), 0);
            close(fd);
            free(path);
        }
        setup_init(&s, &t, (enum patch_type)type);
        s.spec.tablespace_count = 0;
        run_well(&s);
        for (int i = 0; i < 2; i++) {
            struct stat st;
            char *path = tree_path(&t, "target/%s", names[i]);
            assert_int_equal(stat(path, &st), 0);
            assert_int_equal(st.st_size, sizes[i]);
            assert_true(st.st_blocks * 512 >= sizes[i]);
            free(path);
        }
        setup_done(&s);
        tree_free(&t);
    }
}

static void
test_max_rate(void **state)
{
    (void)state;
    struct tree t;
    struct setup s;
    struct timespec from;
    struct timespec to;
    tree_new(&t, 600);
    tree_mkdir(&t, "source");
    tree_mkdir(&t, "target");
    char *big = tree_path(&t, "source/file");
    tree_write(&t, big, 4u << 20, false);
    setup_init(&s, &t, PATCH_FULL);
    s.spec.tablespace_count = 0;
    s.spec.max_rate = 8u << 20;
    clock_gettime(CLOCK_MONOTONIC, &from);
    run_well(&s);
    clock_gettime(CLOCK_MONOTONIC, &to);
    double took = (double)(to.tv_sec - from.tv_sec) + (double)(to.tv_nsec - from.tv_nsec) / 1e9;
    assert_true(took > 0.35);
    free(big);
    setup_done(&s);
    tree_free(&t);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_empty_target),
        cmocka_unit_test(test_writes_little),
        cmocka_unit_test(test_cancelled_and_rerun),
        cmocka_unit_test(test_killed_and_rerun),
        cmocka_unit_test(test_source_changes_meanwhile),
        cmocka_unit_test(test_write_error_names_the_file),
        cmocka_unit_test(test_holes_are_filled),
        cmocka_unit_test(test_max_rate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
