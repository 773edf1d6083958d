#include "../lib/tmpdir.h"

#include "moonrise/base/err.h"

#include <errno.h>

static void
test_set(void **state)
{
    (void)state;
    struct err e = {.sys_errno = 7, .hint = "old"};
    assert_int_equal(err_set(&e, ERR_STALE, "epoch %d", 4), ERR_STALE);
    assert_int_equal(e.code, ERR_STALE);
    assert_string_equal(e.message, "epoch 4");
    assert_string_equal(e.hint, "");
    assert_int_equal(e.sys_errno, 0);
    assert_int_equal(err_set(NULL, ERR_IO, "nobody listens"), ERR_IO);
}

static void
test_sys(void **state)
{
    (void)state;
    static const struct {
        int sys, code;
    } cases[] = {{ENOENT, ERR_NOTFOUND},  {EEXIST, ERR_EXISTS}, {EACCES, ERR_PERMISSION},
                 {EROFS, ERR_PERMISSION}, {ENOSPC, ERR_SPACE},  {EIO, ERR_IO}};
    struct err e;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_int_equal(err_sys(&e, cases[i].sys, "open %s", "/x"), cases[i].code);
        assert_int_equal(e.sys_errno, cases[i].sys);
    }
    err_sys(&e, ENOENT, "open %s", "/x");
    assert_string_equal(e.message, "open /x: No such file or directory");
}

static void
test_wrap_keeps_code_and_hint(void **state)
{
    (void)state;
    struct err e;
    err_set(&e, ERR_SPACE, "write");
    err_hint(&e, "make room");
    assert_int_equal(err_wrap(&e, "dbid %d", 3), ERR_SPACE);
    assert_string_equal(e.message, "dbid 3: write");
    assert_string_equal(e.hint, "make room");
}

/* Whoever asks for no words still learns that it failed. */
static void
test_wrap_without_words_is_a_failure(void **state)
{
    (void)state;
    assert_true(err_wrap(NULL, "dbid %d", 3) < 0);
    assert_true(err_hint(NULL, "make room") < 0);
}

static void
test_wrap_cuts_what_does_not_fit(void **state)
{
    (void)state;
    struct err e;
    err_set(&e, ERR_IO, "inner");
    for (int i = 0; i < 200; i++)
        err_wrap(&e, "a context of some length");
    assert_int_equal(strlen(e.message), sizeof(e.message) - 1);
    assert_int_equal(e.code, ERR_IO);
}

static void
test_names_go_both_ways(void **state)
{
    (void)state;
    for (int code = ERR_UNKNOWNKEY; code <= ERR_IO; code++)
        assert_int_equal(err_code_of(err_name(code)), code);
    assert_string_equal(err_name(-99), "unknown");
    assert_int_equal(err_code_of("nonsense"), 0);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_set),
        cmocka_unit_test(test_sys),
        cmocka_unit_test(test_wrap_keeps_code_and_hint),
        cmocka_unit_test(test_wrap_without_words_is_a_failure),
        cmocka_unit_test(test_wrap_cuts_what_does_not_fit),
        cmocka_unit_test(test_names_go_both_ways),
    };
    return cmocka_run_group_tests_name("base_err", tests, NULL, NULL);
}
