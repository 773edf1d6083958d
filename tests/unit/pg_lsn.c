#include "../lib/tmpdir.h"

#include "moonrise/base/err.h"
#include "moonrise/pg/lsn.h"

static void
test_both_ways(void **state)
{
    (void)state;
    static const struct {
        lsn_t lsn;
        const char *text;
    } cases[] = {{0, "0/0"},
                 {UINT64_C(0x16B374D848), "16/B374D848"},
                 {UINT64_C(0xFFFFFFFFFFFFFFFF), "FFFFFFFF/FFFFFFFF"}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char text[LSN_TEXT_BYTES];
        lsn_t lsn;
        assert_string_equal(lsn_format(text, cases[i].lsn), cases[i].text);
        assert_int_equal(lsn_parse(&lsn, text, NULL), 0);
        assert_true(lsn == cases[i].lsn);
    }
}

static void
test_parse(void **state)
{
    (void)state;
    static const char *const bad[] = {"",    "0",      "0/",          "/0",   "0/0 ", " 0/0",
                                      "g/0", "0/0x10", "123456789/0", "-1/0", "0//0"};
    struct err e;
    lsn_t lsn;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(lsn_parse(&lsn, bad[i], &e), ERR_FORMAT);
    assert_int_equal(lsn_parse(&lsn, "a/00000bF0", &e), 0);
    assert_true(lsn == UINT64_C(0xA00000BF0));
}

/* Names as pg_walfile_name prints them. */
static void
test_segment_name(void **state)
{
    (void)state;
    char name[WAL_NAME_BYTES];
    assert_string_equal(wal_segment_name(name, 1, UINT64_C(0x16B374D848), 16 << 20),
                        "0000000100000016000000B3");
    assert_string_equal(wal_segment_name(name, 0x1F, UINT64_C(0x16B374D848), 1 << 30),
                        "0000001F0000001600000002");
    assert_string_equal(wal_segment_name(name, 2, UINT64_C(0xFFFFFFFF), 1 << 20),
                        "000000020000000000000FFF");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_ways),
        cmocka_unit_test(test_parse),
        cmocka_unit_test(test_segment_name),
    };
    return cmocka_run_group_tests_name("pg_lsn", tests, NULL, NULL);
}
