#include "../lib/tmpdir.h"

#include "moonrise/base/str.h"

static void
test_empty_reads_as_text(void **state)
{
    (void)state;
    struct str s = STR_INIT;
    assert_string_equal(s.data, "");
    str_append(&s, "", 0);
    str_clear(&s);
    assert_int_equal(s.cap, 0);
    str_free(&s);
}

static void
test_grows(void **state)
{
    (void)state;
    struct str s = STR_INIT;
    for (int i = 0; i < 1000; i++)
        str_printf(&s, "%03d,", i);
    assert_int_equal(s.len, 4000);
    assert_memory_equal(s.data, "000,001,", 8);
    assert_string_equal(s.data + 3996, "999,");
    str_clear(&s);
    assert_string_equal(s.data, "");
    str_puts(&s, "again");
    assert_string_equal(s.data, "again");
    str_free(&s);
}

static void
test_printf_of_nothing(void **state)
{
    (void)state;
    struct str s = STR_INIT;
    str_printf(&s, "%s", "");
    assert_string_equal(s.data, "");
    assert_int_equal(s.len, 0);
    str_free(&s);
}

static void
test_holds_any_byte(void **state)
{
    (void)state;
    struct str s = STR_INIT;
    str_append(&s, "a\0b", 3);
    assert_int_equal(s.len, 3);
    assert_memory_equal(s.data, "a\0b\0", 4);
    str_free(&s);
}

static void
test_take(void **state)
{
    (void)state;
    struct str s = STR_INIT;
    char *empty = str_take(&s);
    assert_string_equal(empty, "");
    str_puts(&s, "text");
    char *text = str_take(&s);
    assert_string_equal(text, "text");
    assert_int_equal(s.len, 0);
    assert_string_equal(s.data, "");
    free(empty);
    free(text);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty_reads_as_text),
        cmocka_unit_test(test_grows),
        cmocka_unit_test(test_printf_of_nothing),
        cmocka_unit_test(test_holds_any_byte),
        cmocka_unit_test(test_take),
    };
    return cmocka_run_group_tests_name("base_str", tests, NULL, NULL);
}
