/*
 * patch_run and what the system gives it: a page cache that need not be what the disk holds, disks that are
 * nearly full, directories that others use, few descriptors.
 */
#include "moonrise/patch/patch.h"

#include "patch_setup.h"

#include <inttypes.h>
#include <linux/magic.h>
#include <sys/resource.h>
#include <sys/vfs.h>

/* What this process has had the disk read for it; false where the system does not count it. */
static bool
disk_read(uint64_t *bytes)
{
    char line[64];
    bool found = false;
    FILE *f = fopen("/proc/self/io", "r");
    while (f && !found && fgets(line, sizeof(line), f))
        found = sscanf(line, "read_bytes: %" SCNu64, bytes) == 1;
    if (f)
        fclose(f);
    return found;
}

/* A source and a target with the same bytes: a big file, and a small one that is not looked at in pieces. */
static void
twins(struct tree *t, bool flushed)
{
    static const char *const names[] = {"base/1/20000", "base/1/20001"};
    tree_new(t, 98);
    tree_mkdir(t, "source/base/1");
    tree_mkdir(t, "target/base/1");
    for (int i = 0; i < 2; i++) {
        char *from = tree_path(t, "source/%s", names[i]);
        char *to = tree_path(t, "target/%s", names[i]);
        tree_write(t, from, i ? 5 * 8192 : 400 * 8192, false);
        tree_copy_file(from, to, 0600);
        int fd = open(to, O_RDONLY);
        assert_true(!flushed || fsync(fd) == 0);
        close(fd);
        free(from);
        free(to);
    }
}

/* The target is compared with what its disk holds, also what is in the cache and what has not been written
 * out yet: a server that was told of a failed flush has left pages that say otherwise. But for one that
 * was shut down, whose last checkpoint has flushed all. */
static void
test_compares_the_disk(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        struct tree t;
        struct setup s;
        uint64_t before, after, size = 405 * 8192;
        twins(&t, i != 0);
        setup_init(&s, &t, PATCH_DIFFERENTIAL);
        s.spec.target_flushed = i == 2;
        struct statfs fs;
        bool counted = disk_read(&before) && statfs(t.top, &fs) == 0 && fs.f_type != TMPFS_MAGIC;
        run_well(&s);
        disk_read(&after);
        assert_int_equal(s.progress.bytes_written, 0);
        setup_done(&s);
        tree_free(&t);
        if (!counted)
            skip();
        if (i == 2)
            assert_true(after - before < size / 2);
        else
            assert_true(after - before >= size);
    }
}

/* What is stale makes room for what is new: it goes before anything is copied. */
static void
test_deletes_first(void **state)
{
    (void)state;
    struct tree t;
    struct setup s;
    struct err e = {0};
    twins(&t, false);
    char *stale = tree_path(&t, "target/base/1/30000");
    char *big = tree_path(&t, "source/base/1/20002");
    tree_write(&t, stale, 8192, false);
    tree_write(&t, big, 900 * 8192, false);
    setup_init(&s, &t, PATCH_DIFFERENTIAL);
    assert_int_equal(run_on_small_disk(&s, 6u << 20, &e), ERR_IO);
    assert_int_equal(access(stale, F_OK), -1);
    free(stale);
    free(big);
    setup_done(&s);
    tree_free(&t);
}

/* A new pg_wal does not go to a directory that somebody uses; what a file system has of its own is nothing. */
static void
test_wal_directory_in_use(void **state)
{
    (void)state;
    struct tree t;
    struct setup s;
    struct err e = {0};
    twins(&t, false);
    tree_mkdir(&t, "source/pg_wal");
    tree_mkdir(&t, "target_wal/lost+found");
    char *theirs = tree_path(&t, "target_wal/000000010000000000000009");
    tree_write(&t, theirs, 8192, false);
    setup_init(&s, &t, PATCH_DIFFERENTIAL);
    assert_int_equal(patch_run(&s.spec, &e), ERR_REFUSED);
    assert_non_null(strstr(e.message, "target_wal"));
    assert_int_equal(access(theirs, F_OK), 0);
    unlink(theirs);
    run_well(&s);
    free(theirs);
    theirs = tree_path(&t, "target/pg_wal/lost+found");
    assert_int_equal(access(theirs, F_OK), 0);
    free(theirs);
    setup_done(&s);
    tree_free(&t);
}

/* A process that has few descriptors copies all the same. */
static void
test_few_descriptors(void **state)
{
    (void)state;
    struct tree t;
    struct setup s;
    struct rlimit old;
    tree_new(&t, 97);
    tree_mkdir(&t, "source/base/1");
    tree_mkdir(&t, "target");
    for (int i = 0; i < 300; i++) {
        char *path = tree_path(&t, "source/base/1/%d", 20000 + i);
        tree_write(&t, path, 8192, false);
        free(path);
    }
    setup_init(&s, &t, PATCH_DIFFERENTIAL);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    struct rlimit few = {.rlim_cur = 28, .rlim_max = old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    struct err e = {0};
    int rc = patch_run(&s.spec, &e);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    if (rc)
        fail_msg("%s", e.message);
    assert_int_equal(s.progress.files_done, 300);
    setup_done(&s);
    tree_free(&t);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_compares_the_disk),
        cmocka_unit_test(test_deletes_first),
        cmocka_unit_test(test_wal_directory_in_use),
        cmocka_unit_test(test_few_descriptors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
