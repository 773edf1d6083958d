/* The host's record of the coordinator's pair: what it takes, what it refuses, and what damage does to it. */
#include "../lib/lab.h"
#include "moonrise/base/io.h"

#include <sys/wait.h>

#define WHOSE     "\"name\":\"sales\",\"sysid\":\"7301234567890123456\",\"host\":\"::1\""
#define FILE_NAME "moonrise/sales/coordinator.7301234567890123456.::1"

static int
setup(void **state)
{
    *state = tmpdir_make();
    setenv("XDG_STATE_HOME", *state, 1);
    return 0;
}

static int
teardown(void **state)
{
    tmpdir_do(*state, "chmod -R u+w $DIR");
    tmpdir_remove(*state);
    return 0;
}

static int
call(struct message **out, const char *op, const char *fields, struct err *e)
{
    struct message *args;
    char *json = mem_printf("{%s%s}", WHOSE, fields);
    if (message_parse(&args, json, strlen(json), e) < 0)
        fail_msg("%s: %s", json, e->message);
    struct agent_call c = {.op = op, .args = args};
    int rc = agent_call(out, &c, e);
    message_free(args);
    free(json);
    return rc;
}

/* The fields of an order for this state. */
static char *
fields(int64_t epoch, const char *mode, int64_t catalog_epoch)
{
    return mem_printf(",\"epoch\":%" PRId64 ",\"mode\":\"%s\",\"coordinator\":1,\"standby\":2,"
                      "\"catalog_epoch\":%" PRId64 ",\"wait_ms\":50",
                      epoch, mode, catalog_epoch);
}

static int
writes(int64_t epoch, const char *mode, int64_t catalog_epoch, struct err *e)
{
    struct message *out;
    struct err own = {0};
    char *more = fields(epoch, mode, catalog_epoch);
    int rc = call(&out, "record_write", more, e ? e : &own);
    message_free(out);
    free(more);
    return rc;
}

/* What is on record, as "epoch mode catalog_epoch"; "none"; or the error's name. Free with free(). */
static char *
on_record(void)
{
    struct message *m;
    struct err e = {0};
    int rc = call(&m, "record_read", "", &e);
    if (rc < 0)
        return mem_strdup(err_name(rc));
    char *text = message_bool(m, "found", false)
                     ? mem_printf("%" PRId64 " %s %" PRId64, message_int(m, "epoch", 0),
                                  message_text(m, "mode", "?"), message_int(m, "catalog_epoch", 0))
                     : mem_strdup("none");
    message_free(m);
    return text;
}

static void
expect(const char *want)
{
    char *is = on_record();
    assert_string_equal(is, want);
    free(is);
}

static void
comes_back_as_written(void **state)
{
    expect("none");
    assert_int_equal(writes(50, "s", 51, NULL), 0);
    expect("50 s 51");
    char *mode = tmpdir_shell(*state, "stat -c %a $DIR/" FILE_NAME);
    assert_string_equal(mode, "600\n");
    free(mode);
}

/* Each order on top of "50 s 60", what it comes to, and what is on record then. */
static void
only_grows(void **state)
{
    static const struct {
        int64_t epoch;
        const char *mode;
        int64_t catalog_epoch;
        int rc;
        const char *after;
    } cases[] = {
        {50, "s", 60, 0, "50 s 60"},         {50, "s", 61, 0, "50 s 61"},
        {50, "s", 40, 0, "50 s 60"},         {49, "n", 70, ERR_STALE, "50 s 60"},
        {49, "s", 70, ERR_STALE, "50 s 60"}, {50, "n", 50, 0, "50 n 60"},
        {51, "n", 61, 0, "51 n 61"},         {51, "s", 51, 0, "51 s 60"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tmpdir_do(*state, "rm -rf $DIR/moonrise");
        assert_int_equal(writes(50, "s", 60, NULL), 0);
        assert_int_equal(writes(cases[i].epoch, cases[i].mode, cases[i].catalog_epoch, NULL),
                         cases[i].rc);
        expect(cases[i].after);
    }
}

static void
out_is_not_taken_back_by_its_own_epoch(void **state)
{
    struct err e = {0};
    (void)state;
    assert_int_equal(writes(50, "n", 50, NULL), 0);
    assert_int_equal(writes(50, "s", 50, &e), ERR_STALE);
    assert_non_null(strstr(e.message, "::1"));
    expect("50 n 50");
    assert_int_equal(writes(51, "s", 51, NULL), 0);
}

/* One whose standby was activated may not know it, whatever its epochs have grown to. */
static void
another_coordinator_comes_by_activation_only(void **state)
{
    static const char mine[] = ",\"epoch\":60,\"mode\":\"n\",\"coordinator\":2,\"standby\":0,"
                               "\"catalog_epoch\":60";
    struct message *out;
    struct err e = {0};
    (void)state;
    assert_int_equal(writes(50, "s", 50, NULL), 0);
    assert_int_equal(call(&out, "record_write", mine, &e), ERR_REFUSED);
    expect("50 s 50");
    char *activates = mem_printf("%s,\"activates\":true", mine);
    assert_int_equal(call(&out, "record_write", activates, &e), 0);
    message_free(out);
    free(activates);
    expect("60 n 60");
    assert_int_equal(writes(99, "n", 99, &e), ERR_REFUSED);
    assert_non_null(strstr(e.message, "dbid 2 is the coordinator"));
    expect("60 n 60");
}

/* Each damage is an error, for those who read and for those who write, and the file stays as it is. */
static void
damage_is_never_taken_for_nothing(void **state)
{
    static const char *const damages[] = {
        "truncate -s 40 $F",
        "truncate -s -1 $F",
        "truncate -s 0 $F",
        "sed -i \"s/mode = 's'/mode = 'n'/\" $F",
        "sed -i \"s/epoch = '50'/epoch = '51'/\" $F",
        "printf '\\000' >>$F",
        "head -c 4000 /dev/urandom >$F",
        "sed 's/::1/::2/' $F >$F.x && mv $F.x $F",
        "rm $F && mkdir $F",
    };
    for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
        struct err e = {0};
        tmpdir_do(*state, "rm -rf $DIR/moonrise");
        assert_int_equal(writes(50, "s", 50, NULL), 0);
        char *command = mem_printf("F=$DIR/%s; %s", FILE_NAME, damages[i]);
        tmpdir_do(*state, command);
        char *before = tmpdir_shell(*state, "cat $DIR/" FILE_NAME " 2>&1 | od -c | tail -n 3");
        char *is = on_record();
        assert_string_not_equal(is, "none");
        assert_null(strchr(is, ' '));
        free(is);
        assert_true(writes(90, "n", 90, &e) < 0);
        assert_non_null(strstr(e.message, FILE_NAME));
        char *after = tmpdir_shell(*state, "cat $DIR/" FILE_NAME " 2>&1 | od -c | tail -n 3");
        assert_string_equal(before, after);
        free(command);
        free(before);
        free(after);
    }
}

/* A record with a seal that holds, of another host, in the place of this one's. */
static void
is_nobody_elses(void **state)
{
    struct err e = {0};
    struct message *out, *args;
    static const char other[] =
        "{\"name\":\"sales\",\"sysid\":\"7301234567890123456\",\"host\":\"127.0.0.1\","
        "\"epoch\":7,\"mode\":\"n\",\"coordinator\":1,\"standby\":2,\"catalog_epoch\":7}";
    assert_int_equal(message_parse(&args, other, strlen(other), &e), 0);
    struct agent_call c = {.op = "record_write", .args = args};
    assert_int_equal(agent_call(&out, &c, &e), 0);
    message_free(out);
    message_free(args);
    expect("none");
    tmpdir_do(*state, "cd $DIR/moonrise/sales && cp coordinator.7301234567890123456.127.0.0.1 "
                      "coordinator.7301234567890123456.::1");
    expect("format");
    assert_int_equal(writes(51, "s", 51, &e), ERR_FORMAT);
    assert_non_null(strstr(e.hint, "remove it"));
}

static void
wants_words_that_make_a_path_of_its_own(void **state)
{
    static const char *const bad[] = {
        "{\"name\":\"../sales\",\"sysid\":\"7\",\"host\":\"h\"}",
        "{\"name\":\"sales\",\"sysid\":\"7\",\"host\":\"../h\"}",
        "{\"name\":\"sales\",\"sysid\":\"7\",\"host\":\"\"}",
        "{\"name\":\"sales\",\"sysid\":\"7/8\",\"host\":\"h\"}",
        "{\"name\":\"sales\",\"sysid\":\"\",\"host\":\"h\"}",
        "{\"name\":\".\",\"sysid\":\"7\",\"host\":\"h\"}",
    };
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct message *args, *out;
        struct err e = {0};
        assert_int_equal(message_parse(&args, bad[i], strlen(bad[i]), &e), 0);
        struct agent_call c = {.op = "record_read", .args = args};
        assert_int_equal(agent_call(&out, &c, &e), ERR_ARGUMENT);
        message_free(args);
    }
    assert_int_equal(writes(-1, "n", 0, NULL), ERR_ARGUMENT);
    assert_int_equal(writes(1, "x", 0, NULL), ERR_ARGUMENT);
    assert_int_equal(writes(1, "", 0, NULL), ERR_ARGUMENT);
}

/* Who was stopped with the lock in his hands does not keep it. */
static void
is_taken_from_who_was_stopped(void **state)
{
    struct err e = {0};
    int told[2], status, fd;
    char c;
    char *lock = mem_printf("%s/%s.lock", (char *)*state, FILE_NAME);
    assert_int_equal(writes(50, "s", 50, NULL), 0);
    assert_int_equal(pipe(told), 0);
    pid_t pid = fork();
    if (pid == 0) {
        if (io_lock(&fd, lock, NULL) == 0 && write(told[1], "x", 1) == 1)
            pause();
        _exit(1);
    }
    assert_int_equal(read(told[0], &c, 1), 1);
    close(told[0]);
    close(told[1]);
    kill(pid, SIGSTOP);
    assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
    struct message *out;
    assert_int_equal(call(&out, "record_read", ",\"wait_ms\":10000", &e), 0);
    message_free(out);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    free(lock);
}

/* Somebody holds the lock: it is waited for, not for ever. A directory that cannot be written leaves what
 * was there. */
static void
fails_without_a_trace(void **state)
{
    struct err e = {0};
    int fd;
    assert_int_equal(writes(50, "s", 50, NULL), 0);
    char *lock = mem_printf("%s/%s.lock", (char *)*state, FILE_NAME);
    assert_int_equal(io_lock(&fd, lock, &e), 0);
    assert_int_equal(writes(51, "n", 51, NULL), ERR_BUSY);
    struct message *out;
    assert_int_equal(call(&out, "record_read", ",\"wait_ms\":20", &e), ERR_BUSY);
    io_unlock(fd);
    tmpdir_do(*state, "chmod a-w $DIR/moonrise/sales");
    assert_int_equal(writes(51, "n", 51, NULL), ERR_PERMISSION);
    expect("50 s 50");
    tmpdir_do(*state, "chmod u+w $DIR/moonrise/sales");
    assert_int_equal(writes(51, "n", 51, NULL), 0);
    expect("51 n 51");
    char *left = tmpdir_shell(*state, "ls $DIR/moonrise/sales");
    assert_null(strstr(left, ".tmp"));
    free(left);
    free(lock);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(comes_back_as_written, setup, teardown),
        cmocka_unit_test_setup_teardown(only_grows, setup, teardown),
        cmocka_unit_test_setup_teardown(out_is_not_taken_back_by_its_own_epoch, setup, teardown),
        cmocka_unit_test_setup_teardown(another_coordinator_comes_by_activation_only, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(damage_is_never_taken_for_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(is_nobody_elses, setup, teardown),
        cmocka_unit_test_setup_teardown(wants_words_that_make_a_path_of_its_own, setup, teardown),
        cmocka_unit_test_setup_teardown(is_taken_from_who_was_stopped, setup, teardown),
        cmocka_unit_test_setup_teardown(fails_without_a_trace, setup, teardown),
    };
    (void)argc;
    lab_user(argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
