#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"
#include "moonrise/wire/message.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct message *
parse(const char *text)
{
    struct message *m;
    struct err e;
    if (message_parse(&m, text, strlen(text), &e) != 0)
        fail_msg("%s: %s", text, e.message);
    return m;
}

static void
test_build_and_read(void **state)
{
    struct message *m = message_new(), *inner = message_new(), *row = message_new();
    (void)state;
    message_set_text(m, "text", "grün \"x\"");
    message_set_text(m, "none", NULL);
    message_set_int(m, "big", INT64_MIN);
    message_set_real(m, "real", 2.5);
    message_set_real(m, "nan", NAN);
    message_set_bool(m, "yes", true);
    message_set_int(inner, "n", 7);
    message_set_take(m, "inner", inner);
    message_set_int(row, "i", 1);
    message_append_take(m, "rows", row);
    message_append_text(m, "rows", "two");
    char *text = message_format(m);
    message_free(m);
    m = parse(text);
    free(text);
    assert_string_equal(message_text(m, "text", ""), "grün \"x\"");
    assert_string_equal(message_text(m, "none", "otherwise"), "otherwise");
    assert_true(message_int(m, "big", 0) == INT64_MIN);
    assert_true(message_bool(m, "yes", false));
    assert_true(message_bool(m, "text", true));
    assert_int_equal(message_int(message_object(m, "inner"), "n", 0), 7);
    assert_null(message_object(m, "text"));
    assert_int_equal(message_count(m, "rows"), 2);
    assert_int_equal(message_int(message_item(m, "rows", 0), "i", 0), 1);
    assert_string_equal(message_text_item(m, "rows", 1), "two");
    assert_null(message_item(m, "rows", 1));
    assert_null(message_item(m, "rows", 2));
    assert_null(message_text_item(m, "nowhere", 0));
    message_free(m);
}

static void
test_needed_fields(void **state)
{
    struct message *m = parse("{\"a\":\"x\",\"n\":3.0,\"r\":3.5,\"huge\":1e300}");
    struct err e;
    const char *text;
    int64_t n;
    (void)state;
    assert_int_equal(message_need_text(m, "a", &text, &e), 0);
    assert_int_equal(message_need_int(m, "n", &n, &e), 0);
    assert_int_equal(n, 3);
    assert_int_equal(message_need_int(m, "r", &n, &e), ERR_PROTOCOL);
    assert_int_equal(message_need_int(m, "huge", &n, &e), ERR_PROTOCOL);
    assert_int_equal(message_need_text(m, "n", &text, &e), ERR_PROTOCOL);
    assert_string_equal(e.message, "field n is no text");
    assert_int_equal(message_need_text(m, "b", &text, &e), ERR_PROTOCOL);
    assert_string_equal(e.message, "field b is missing");
    message_free(m);
}

static void
test_refused(void **state)
{
    const char *const bad[] = {"",
                               "[]",
                               "\"x\"",
                               "{",
                               "{\"a\":1,\"a\":2}",
                               "{\"a\":99999999999999999999}",
                               "{\"a\":\"\xff\"}",
                               "{\"a\":\"\\u0000\"}",
                               "{\"a\":1} x",
                               "{\"\\\\\":[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]}"};
    struct message *m;
    struct err e;
    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        if (message_parse(&m, bad[i], strlen(bad[i]), &e) != ERR_PROTOCOL)
            fail_msg("taken: %s", bad[i]);
    /* Brackets inside of a text are no nesting. */
    message_free(
        parse("{\"a\":\"[[[[[[[[[[[[[[[[[[[[\\\"[[[[[[\",\"b\":[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]}"));
}

static void
test_depth_of_a_hostile_message(void **state)
{
    struct str text = STR_INIT;
    struct message *m;
    (void)state;
    for (int i = 0; i < 2000000; i++)
        str_append(&text, "[", 1);
    assert_int_equal(message_parse(&m, text.data, text.len, NULL), ERR_PROTOCOL);
    str_free(&text);
}

static void
test_text_that_is_no_utf8(void **state)
{
    struct message *m = message_new();
    (void)state;
    message_set_text(m, "path", "a\xff\xc3\xa9\xed\xa0\x80z\xc3");
    assert_string_equal(message_text(m, "path", ""),
                        "a\xEF\xBF\xBD\xc3\xa9\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBDz\xEF\xBF\xBD");
    message_free(m);
}

static void
collect(void *arg, const char *name, const char *text)
{
    str_printf(arg, "%s=%s;", name, text);
}

static void
test_each(void **state)
{
    struct message *m = parse(
        "{\"s\":{\"port\":\"5\",\"n\":-3,\"r\":0.5,\"on\":true,\"x\":null,\"o\":{}},\"t\":5}");
    struct str out = STR_INIT;
    (void)state;
    message_each(m, "s", collect, &out);
    assert_string_equal(out.data, "port=5;n=-3;r=0.5;on=true;");
    message_each(m, "t", collect, &out);
    message_each(m, "nowhere", collect, &out);
    assert_string_equal(out.data, "port=5;n=-3;r=0.5;on=true;");
    str_free(&out);
    message_free(m);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_build_and_read), cmocka_unit_test(test_needed_fields),
        cmocka_unit_test(test_refused),        cmocka_unit_test(test_depth_of_a_hostile_message),
        cmocka_unit_test(test_each),           cmocka_unit_test(test_text_that_is_no_utf8),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
