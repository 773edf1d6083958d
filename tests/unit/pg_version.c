#include "../lib/tmpdir.h"

#include "moonrise/base/err.h"
#include "moonrise/pg/version.h"

static void
test_known(void **state)
{
    (void)state;
    struct err e;
    for (int major = 13; major <= 16; major++)
        assert_int_equal(version_check(major, &e), 0);
    assert_int_equal(version_check(12, &e), ERR_VERSION);
    assert_non_null(strstr(e.message, "PostgreSQL 12"));
    assert_int_equal(version_check(17, &e), ERR_VERSION);
    char text[VERSION_TEXT_BYTES];
    assert_string_equal(version_text(text, 150013), "15.13");
}

static void
test_sync_from_start(void **state)
{
    (void)state;
    assert_true(version_sync_from_start(150013));
    assert_false(version_sync_from_start(150012));
    assert_false(version_sync_from_start(130020));
    assert_true(version_sync_from_start(140018));
    assert_false(version_sync_from_start(160008));
    assert_false(version_sync_from_start(120022));
}

static void
test_read(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int rc;
    } cases[] = {{"15\n", 0},           {"13", 0},          {"9.6\n", ERR_VERSION},
                 {"12\n", ERR_VERSION}, {"", ERR_FORMAT},   {"x\n", ERR_FORMAT},
                 {"15x\n", ERR_FORMAT}, {"-15", ERR_FORMAT}};
    char *dir = tmpdir_make();
    struct err e;
    int major = 0;
    assert_int_equal(version_read(&major, dir, &e), ERR_NOTFOUND);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        tmpdir_write(dir, "PG_VERSION", cases[i].text);
        assert_int_equal(version_read(&major, dir, &e), cases[i].rc);
    }
    tmpdir_write(dir, "PG_VERSION", "9.6\n");
    version_read(&major, dir, &e);
    assert_non_null(strstr(e.message, "PostgreSQL 9.6"));
    tmpdir_remove(dir);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known),
        cmocka_unit_test(test_sync_from_start),
        cmocka_unit_test(test_read),
    };
    return cmocka_run_group_tests_name("pg_version", tests, NULL, NULL);
}
