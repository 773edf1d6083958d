/* Orders that come too late, to an instance of this host. A real server. */
#include "agent_one.h"

static void
late_orders_are_refused(void **state)
{
    struct lab *lab = *state;
    lab->epoch = 100;
    lab_do(lab, &one, "checkpoint", "");
    lab_refused(lab, &one, "stop", "\"epoch\":99,\"step\":50", ERR_STALE);
    lab_refused(lab, &one, "fence", "\"epoch\":100,\"step\":1", ERR_STALE);
    lab_do(lab, &one, "checkpoint", "\"epoch\":100,\"step\":1");
    lab_refused(lab, &one, "fence", "\"epoch\":101,\"dbid\":3", ERR_REFUSED);
    lab_refused(lab, &one, "fence", "\"epoch\":101,\"sysid\":\"1\"", ERR_REFUSED);
    lab_sql_is(lab, &one, "select 1", "1");
    lab_refused(lab, &one, "initdb", "", ERR_EXISTS);
}

/* What is barred stays so until a newer order comes, and the last one that came stays on record. */
static void
barred_orders_are_refused(void **state)
{
    struct lab *lab = *state;
    lab->epoch = 100;
    lab_do(lab, &one, "checkpoint", "");
    lab_refused(lab, &one, "bar", "\"epoch\":99", ERR_STALE);
    for (int times = 0; times < 2; times++) {
        struct message *was = lab_ok(lab, &one, "bar", "\"epoch\":110,\"step\":97");
        assert_int_equal(message_int(was, "epoch", 0), 100);
        assert_string_equal(message_text(was, "order", ""), "checkpoint");
        assert_int_equal(message_int(was, "newest_timeline", 0), 1);
        assert_false(message_bool(was, "marked", true) ||
                     message_bool(was, "standby_signal", true));
        message_free(was);
    }
    lab_refused(lab, &one, "fence", "\"epoch\":105", ERR_STALE);
    lab_refused(lab, &one, "fence", "\"epoch\":110,\"step\":99", ERR_STALE);
    struct message *word = lab_ok(lab, &one, "inspect", "");
    assert_int_equal(message_int(message_object(word, "epoch"), "barred", 0), 110);
    message_free(word);
    lab->epoch = 120;
    lab_do(lab, &one, "checkpoint", "");
    word = lab_ok(lab, &one, "inspect", "");
    assert_int_equal(message_int(message_object(word, "epoch"), "barred", 1), 0);
    message_free(word);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(late_orders_are_refused, setup, lab_teardown),
        cmocka_unit_test_setup_teardown(barred_orders_are_refused, setup, lab_teardown),
    };
    (void)argc;
    lab_user(argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
