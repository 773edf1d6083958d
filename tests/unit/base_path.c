#include "../lib/tmpdir.h"

#include "moonrise/base/err.h"
#include "moonrise/base/path.h"

static void
expect_take(char *got_take, const char *wanted)
{
    assert_string_equal(got_take, wanted);
    free(got_take);
}

static void
test_join(void **state)
{
    (void)state;
    expect_take(path_join("/a", "b"), "/a/b");
    expect_take(path_join("/a//", "b/c"), "/a/b/c");
    expect_take(path_join("/", "b"), "/b");
    expect_take(path_join("/a", "/b"), "/b");
    expect_take(path_join("", "b"), "b");
}

static void
test_dir_and_base(void **state)
{
    (void)state;
    expect_take(path_dir("/a/b"), "/a");
    expect_take(path_dir("/a/b//"), "/a");
    expect_take(path_dir("/a"), "/");
    expect_take(path_dir("/"), "/");
    expect_take(path_dir("a"), ".");
    expect_take(path_dir("a//b"), "a");
    expect_take(path_dir(""), ".");
    assert_string_equal(path_base("/a/b"), "b");
    assert_string_equal(path_base("b"), "b");
}

static void
test_inside(void **state)
{
    (void)state;
    assert_true(path_inside("/a", "/a"));
    assert_true(path_inside("/a/", "/a/b"));
    assert_true(path_inside("/", "/a"));
    assert_false(path_inside("/a", "/ab"));
    assert_false(path_inside("/a/b", "/a"));
}

static void
test_canonical(void **state)
{
    (void)state;
    char *dir = tmpdir_make(), *path, *real;
    struct err e;
    tmpdir_do(dir, "mkdir $DIR/real; ln -s real $DIR/link");
    char *link = path_join(dir, "./link/../link");
    assert_int_equal(path_canonical(&real, dir, &e), 0);
    assert_int_equal(path_canonical(&path, link, &e), 0);
    assert_true(path_inside(real, path));
    assert_string_equal(path_base(path), "real");
    free(path);
    assert_int_equal(path_canonical(&path, "/does/not/exist", &e), ERR_NOTFOUND);
    assert_null(path);
    free(link);
    free(real);
    tmpdir_remove(dir);
}

static void
test_plain(void **state)
{
    static const char *const plain[] = {"/", "/a", "/a/b", "/..a", "/a../.b/...", "/a b"};
    static const char *const others[] = {"",    "a",     "a/b", "//",     "/a/",    "/a//b",
                                         "/..", "/a/..", "/.",  "/a/./b", "/a/../b"};
    (void)state;
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        if (!path_is_plain(plain[i]))
            fail_msg("%s", plain[i]);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (path_is_plain(others[i]))
            fail_msg("%s", others[i]);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_join),   cmocka_unit_test(test_dir_and_base),
        cmocka_unit_test(test_inside), cmocka_unit_test(test_canonical),
        cmocka_unit_test(test_plain),
    };
    return cmocka_run_group_tests_name("base_path", tests, NULL, NULL);
}
