/* What a host says of an instance that runs. A real server. */
#include "agent_one.h"

static bool
serves(struct lab *lab)
{
    struct message *word = lab_ok(lab, &one, "inspect", "\"try\":true");
    bool yes = message_bool(word, "serves", false);
    message_free(word);
    return yes;
}

/* Without being asked to it tries nothing. A postmaster that hangs lets nobody in, at once or after a while. */
static void
says_whether_it_serves(void **state)
{
    struct lab *lab = *state;
    int pid = lab_postmaster(lab, &one);
    assert_true(serves(lab));
    struct message *word = lab_ok(lab, &one, "inspect", "");
    assert_false(message_bool(word, "serves", false));
    message_free(word);
    kill(pid, SIGSTOP);
    int64_t began = clock_ms();
    assert_false(serves(lab));
    assert_in_range(clock_ms() - began, 900, 2500);
    kill(pid, SIGCONT);
    assert_true(serves(lab));
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(says_whether_it_serves),
    };
    (void)argc;
    lab_user(argv);
    return cmocka_run_group_tests(tests, setup, lab_teardown);
}
