/*
 * The file list, the names of a directory, and opening below a directory.
 */
#include "../../engine/patch/list.h"

#include "../../engine/patch/names.h"
#include "../../engine/patch/walk.h"
#include "moonrise/base/err.h"
#include "moonrise/patch/patch.h"
#include "patch_tree.h"

#include <sys/resource.h>

static void
test_round_trip(void **state)
{
    (void)state;
    static const uint64_t sizes[] = {0, 1, 127, 128, 8192, 1u << 30, UINT64_MAX};
    static const char *const names[] = {"1", "1259", "1259_fsm", "16384", "16384.1", "a", "b b"};
    struct patch_list *l = patch_list_new();
    assert_int_equal(
        patch_list_dir(l, &(struct patch_listed_dir){0, "", 0700, PATCH_DIR_COPY}, NULL), 0);
    assert_int_equal(
        patch_list_dir(l, &(struct patch_listed_dir){0, "base", 0750, PATCH_DIR_COPY}, NULL), 0);
    for (int i = 0; i < 7; i++)
        assert_int_equal(
            patch_list_file(l, &(struct patch_listed_file){names[i], sizes[i], 0640, i == 3}, NULL),
            0);
    assert_int_equal(
        patch_list_dir(l, &(struct patch_listed_dir){0, "pg_wal", 0700, PATCH_DIR_EMPTY}, NULL), 0);
    assert_int_equal(patch_list_sort(l, NULL), 0);
    const struct patch_dir *d = patch_list_find_dir(l, 0, "base");
    assert_non_null(d);
    assert_int_equal(d->mode, 0750);
    struct patch_entry e;
    uint32_t at = d->first;
    for (int i = 0; i < 7; i++, at = e.next) {
        patch_list_entry(l, at, &e);
        assert_string_equal(e.name, names[i]);
        assert_true(e.size == sizes[i]);
        assert_int_equal(e.mode, 0640);
        assert_int_equal(e.flags, i == 3);
        patch_list_mark(l, at, PATCH_ENTRY_GONE);
        patch_list_entry(l, at, &e);
        assert_int_equal(e.flags & PATCH_ENTRY_GONE, PATCH_ENTRY_GONE);
    }
    assert_int_equal(at, d->end);
    assert_int_equal(patch_list_files(l), 6);
    assert_null(patch_list_find_dir(l, 1, "base"));
    assert_null(patch_list_find_dir(l, 0, "bas"));
    patch_list_free(l);
}

static void
test_hostile_names(void **state)
{
    (void)state;
    static const char *const bad_names[] = {"", ".", "..", "a/b", "/etc", "../x"};
    static const char *const bad_paths[] = {"/", "/etc", "a/", "a//b", "..", "a/../b", ".", "a/."};
    struct patch_list *l = patch_list_new();
    char longer[400];
    memset(longer, 'x', sizeof(longer));
    longer[256] = '\0';
    /* A file before any directory. */
    assert_int_equal(patch_list_file(l, &(struct patch_listed_file){"a", 0, 0600, 0}, NULL),
                     ERR_FORMAT);
    assert_int_equal(
        patch_list_dir(l, &(struct patch_listed_dir){0, "", 0700, PATCH_DIR_COPY}, NULL), 0);
    for (size_t i = 0; i < sizeof(bad_names) / sizeof(bad_names[0]); i++)
        assert_int_equal(
            patch_list_file(l, &(struct patch_listed_file){bad_names[i], 0, 0600, 0}, NULL),
            ERR_FORMAT);
    assert_int_equal(patch_list_file(l, &(struct patch_listed_file){longer, 0, 0600, 0}, NULL),
                     ERR_FORMAT);
    for (size_t i = 0; i < sizeof(bad_paths) / sizeof(bad_paths[0]); i++)
        assert_int_equal(
            patch_list_dir(l, &(struct patch_listed_dir){0, bad_paths[i], 0700, PATCH_DIR_COPY},
                           NULL),
            ERR_FORMAT);
    /* Out of order, twice, in a directory whose files do not count. */
    assert_int_equal(patch_list_file(l, &(struct patch_listed_file){"b", 0, 0600, 0}, NULL), 0);
    assert_int_equal(patch_list_file(l, &(struct patch_listed_file){"a", 0, 0600, 0}, NULL),
                     ERR_FORMAT);
    assert_int_equal(patch_list_file(l, &(struct patch_listed_file){"b", 0, 0600, 0}, NULL),
                     ERR_FORMAT);
    assert_int_equal(
        patch_list_dir(l, &(struct patch_listed_dir){0, "pg_wal", 0700, PATCH_DIR_EMPTY}, NULL), 0);
    assert_int_equal(patch_list_file(l, &(struct patch_listed_file){"c", 0, 0600, 0}, NULL),
                     ERR_FORMAT);
    patch_list_free(l);
}

static void
test_directories_must_fit(void **state)
{
    (void)state;
    struct patch_list *l = patch_list_new();
    patch_list_dir(l, &(struct patch_listed_dir){0, "", 0700, PATCH_DIR_COPY}, NULL);
    patch_list_dir(l, &(struct patch_listed_dir){0, "a/b", 0700, PATCH_DIR_COPY}, NULL);
    assert_int_equal(patch_list_sort(l, NULL), ERR_FORMAT); /* no "a" */
    patch_list_dir(l, &(struct patch_listed_dir){0, "a", 0700, PATCH_DIR_COPY}, NULL);
    assert_int_equal(patch_list_sort(l, NULL), 0);
    assert_string_equal(patch_list_dir_at(l, 1)->path, "a"); /* parents first */
    patch_list_dir(l, &(struct patch_listed_dir){0, "a", 0700, PATCH_DIR_COPY}, NULL);
    assert_int_equal(patch_list_sort(l, NULL), ERR_FORMAT); /* twice */
    patch_list_free(l);
}

/* A million relation files stay far below the 64 MiB that a patch may take. */
static void
test_a_million_files(void **state)
{
    (void)state;
    struct patch_list *l = patch_list_new();
    struct rusage before;
    struct rusage after;
    char name[16];
    getrusage(RUSAGE_SELF, &before);
    assert_int_equal(
        patch_list_dir(l, &(struct patch_listed_dir){0, "", 0700, PATCH_DIR_COPY}, NULL), 0);
    for (unsigned i = 0; i < 1000000; i++) {
        snprintf(name, sizeof(name), "%u", 1000000 + i);
        assert_int_equal(
            patch_list_file(l, &(struct patch_listed_file){name, 8192ull * (i % 1000), 0600, 0},
                            NULL),
            0);
    }
    getrusage(RUSAGE_SELF, &after);
    assert_int_equal(patch_list_files(l), 1000000);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    assert_true(after.ru_maxrss - before.ru_maxrss < 20 << 10);
#endif
    patch_list_free(l);
}

static void
test_names(void **state)
{
    (void)state;
    struct tree t;
    struct patch_names n = {.count = 0};
    tree_new(&t, 1);
    for (int i = 0; i < 700; i++) {
        char name[16];
        snprintf(name, sizeof(name), "f%d", i);
        tree_file(&t, name);
    }
    int fd = open(t.top, O_RDONLY | O_DIRECTORY);
    for (int twice = 0; twice < 2; twice++) {
        assert_int_equal(patch_names_read(&n, fd, NULL), 0);
        assert_int_equal(n.count, 700);
        for (uint32_t i = 1; i < n.count; i++)
            assert_true(strcmp(patch_names_at(&n, i - 1), patch_names_at(&n, i)) < 0);
    }
    assert_true(patch_names_has(&n, "f699"));
    assert_false(patch_names_has(&n, "f700"));
    patch_names_free(&n);
    close(fd);
    tree_free(&t);
}

static void
test_open_below(void **state)
{
    (void)state;
    struct tree t;
    tree_new(&t, 1);
    tree_mkdir(&t, "root/a/b");
    tree_mkdir(&t, "outside/b");
    char *outside = tree_path(&t, "outside");
    char *link = tree_path(&t, "root/link");
    char *deep = tree_path(&t, "root/a/link");
    char *root = tree_path(&t, "root");
    assert_int_equal(symlink(outside, link), 0);
    assert_int_equal(symlink(outside, deep), 0);
    int fd = open(root, O_RDONLY | O_DIRECTORY);
    static const struct {
        const char *path;
        bool follow;
        bool opens;
    } cases[] = {{"", false, true},       {"a/b", false, true},    {"link", false, false},
                 {"link", true, true},    {"link/b", true, true},  {"link/b", false, false},
                 {"a/link", true, false}, {"a/none", false, false}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int got = patch_open_below(fd, cases[i].path, cases[i].follow);
        assert_int_equal(got >= 0, cases[i].opens);
        if (got >= 0)
            close(got);
    }
    close(fd);
    free(outside);
    free(link);
    free(deep);
    free(root);
    tree_free(&t);
}

/* A listing that is told to stop does, however much is left of it. */
static void
test_cancelled_walk(void **state)
{
    (void)state;
    struct tree t;
    atomic_bool cancel = true;
    tree_new(&t, 1);
    tree_mkdir(&t, "root/base/1");
    tree_file(&t, "root/base/1/1259");
    char *root = tree_path(&t, "root");
    struct patch_spec spec = {.source_dir = root, .cancel = &cancel};
    int fd = open(root, O_RDONLY | O_DIRECTORY);
    for (int stopped = 1; stopped >= 0; stopped--) {
        struct patch_list *l = patch_list_new();
        atomic_store(&cancel, stopped);
        assert_int_equal(patch_walk(l, &spec, &fd, NULL), stopped ? ERR_CANCELLED : 0);
        assert_int_equal(patch_list_files(l), stopped ? 0 : 1);
        patch_list_free(l);
    }
    close(fd);
    free(root);
    tree_free(&t);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_hostile_names),
        cmocka_unit_test(test_directories_must_fit),
        cmocka_unit_test(test_a_million_files),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_open_below),
        cmocka_unit_test(test_cancelled_walk),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
