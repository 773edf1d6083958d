/* Epoch files and the lock orders run under. */
#include "../../engine/agent/epoch.h"

#include "../../engine/agent/holder.h"
#include "../lib/lab.h"
#include "moonrise/base/io.h"

#include <sys/wait.h>

static struct epoch
sample(void)
{
    return (struct epoch){.epoch = 42,
                          .step = 20,
                          .order = "arm",
                          .sysid = "7301234567890123456",
                          .dbid = 3,
                          .content = -1,
                          .marked = true,
                          .reason = "it's replaced\\"};
}

static void
comes_back_as_written(void **state)
{
    struct epoch in = sample(), out;
    struct err e = {0};
    assert_int_equal(epoch_write(&in, *state, &e), 0);
    assert_int_equal(epoch_read(&out, *state, &e), 0);
    assert_true(out.present && out.valid && out.marked);
    assert_int_equal(out.epoch, 42);
    assert_int_equal(out.step, 20);
    assert_int_equal(out.dbid, 3);
    assert_int_equal(out.content, -1);
    assert_string_equal(out.order, "arm");
    assert_string_equal(out.reason, in.reason);
    assert_string_equal(out.sysid, in.sysid);
    char *size = tmpdir_shell(*state, "stat -c %s $DIR/moonrise.epoch");
    assert_true(atoi(size) < EPOCH_FILE_BYTES);
    free(size);
}

static void
is_absent_or_damaged(void **state)
{
    struct epoch in = sample(), out;
    struct err e = {0};
    assert_int_equal(epoch_read(&out, *state, &e), 0);
    assert_false(out.present || out.valid);
    assert_int_equal(epoch_write(&in, *state, &e), 0);
    tmpdir_do(*state, "sed -i s/42/43/ $DIR/moonrise.epoch");
    assert_int_equal(epoch_read(&out, *state, &e), 0);
    assert_true(out.present);
    assert_false(out.valid);
    tmpdir_write(*state, "moonrise.epoch", "");
    assert_int_equal(epoch_read(&out, *state, &e), 0);
    assert_false(out.valid);
    tmpdir_do(*state, "head -c 5000 /dev/urandom >$DIR/moonrise.epoch");
    assert_int_equal(epoch_read(&out, *state, &e), 0);
    assert_false(out.valid);
}

static void
is_void_elsewhere(void **state)
{
    struct epoch ep = sample();
    (void)state;
    ep.valid = true;
    epoch_judge(&ep, ep.sysid, 3);
    assert_true(ep.valid);
    epoch_judge(&ep, "7301234567890123457", 3);
    assert_false(ep.valid);
    ep.valid = true;
    epoch_judge(&ep, ep.sysid, 4);
    assert_false(ep.valid);
}

static void
later_orders_only(void **state)
{
    static const struct {
        struct claim claim;
        int rc;
        bool repeat;
    } cases[] = {
        {{42, 20, "arm"}, 0, true},           {{42, 20, "release"}, ERR_STALE, false},
        {{42, 30, "release"}, 0, false},      {{43, 0, "promote"}, 0, false},
        {{42, 10, "name"}, ERR_STALE, false}, {{41, 99, "promote"}, ERR_STALE, false},
    };
    struct epoch last = sample();
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bool repeat;
        assert_int_equal(epoch_compare(&last, &cases[i].claim, &repeat, NULL), cases[i].rc);
        assert_int_equal(repeat, cases[i].repeat);
    }
}

static void
no_orders_that_are_barred(void **state)
{
    static const struct {
        struct claim claim;
        int rc;
        bool repeat;
    } cases[] = {
        {{42, 30, "release"}, ERR_STALE, false},
        {{50, 99, "promote"}, ERR_STALE, false},
        {{50, 97, "bar"}, 0, true},
        {{49, 97, "bar"}, ERR_STALE, false},
        {{51, 0, "promote"}, 0, false},
        {{51, 97, "bar"}, 0, false},
    };
    struct epoch last = sample(), out;
    struct err e = {0};
    last.barred = 50;
    assert_int_equal(epoch_write(&last, *state, &e), 0);
    assert_int_equal(epoch_read(&out, *state, &e), 0);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bool repeat;
        assert_int_equal(epoch_compare(&out, &cases[i].claim, &repeat, NULL), cases[i].rc);
        assert_int_equal(repeat, cases[i].repeat);
    }
}

/* A child that takes the lock with a claim and keeps it; returns once it has it. */
static pid_t
holder(const char *dir, struct claim claim)
{
    int told[2];
    char c;
    assert_int_equal(pipe(told), 0);
    pid_t pid = fork();
    if (pid == 0) {
        int fd;
        if (epoch_lock(&fd, dir, &claim, NULL, NULL) == 0 && write(told[1], "x", 1) == 1)
            pause();
        _exit(1);
    }
    assert_int_equal(read(told[0], &c, 1), 1);
    close(told[0]);
    close(told[1]);
    return pid;
}

static void
a_newer_order_ends_one_that_hangs(void **state)
{
    struct err e = {0};
    int fd, status;
    pid_t pid = holder(*state, (struct claim){7, 1, "arm"});
    int64_t began = clock_ms();
    assert_int_equal(epoch_lock(&fd, *state, &(struct claim){8, 1, "fence"}, NULL, &e), 0);
    assert_in_range(clock_ms() - began, 1000, 5000);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    assert_int_equal(io_lock_holder("/nonexistent"), 0);
    io_unlock(fd);
}

/* One that was stopped before it could write what it holds the lock for: nobody is named in the file, or
 * whoever held it before. */
static void
one_that_was_stopped_before_it_said_so_is_ended(void **state)
{
    static const char *const texts[] = {"", "1\n", "1\n2 9 9 arm\n"};
    char *path = mem_printf("%s/moonrise.lock", (char *)*state);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        struct err e = {0};
        int fd, status;
        pid_t pid = holder(*state, (struct claim){7, 1, "arm"});
        tmpdir_write(*state, "moonrise.lock", texts[i]);
        assert_int_equal(holder_of(path), pid);
        kill(pid, SIGSTOP);
        assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
        assert_int_equal(epoch_lock(&fd, *state, &(struct claim){10, 1, "fence"}, NULL, &e), 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        assert_int_equal(holder_of(path), getpid());
        io_unlock(fd);
        assert_int_equal(holder_of(path), 0);
    }
    free(path);
}

static void
an_older_one_is_refused_at_once(void **state)
{
    struct err e = {0};
    int fd, status;
    pid_t pid = holder(*state, (struct claim){7, 1, "arm"});
    assert_int_equal(epoch_lock(&fd, *state, &(struct claim){6, 9, "promote"}, NULL, &e),
                     ERR_STALE);
    assert_int_equal(waitpid(pid, &status, WNOHANG), 0);
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
}

/* The text of a lock file that a stranger's process holds must not get that process killed. */
static void
a_stranger_is_not_killed(void **state)
{
    struct err e = {0};
    atomic_bool cancel = false;
    int fd, status;
    char *command = mem_printf("%s/moonrise.lock", (char *)*state);
    tmpdir_write(*state, "moonrise.lock", "");
    pid_t pid = fork();
    if (pid == 0) {
        execlp("flock", "flock", command, "tail", "-f", "/dev/null", (char *)NULL);
        _exit(1);
    }
    while (io_lock(&fd, command, NULL) == 0)
        io_unlock(fd);
    char *text = mem_printf("%d\n%s", (int)pid, "");
    char *start = mem_printf("cut -d' ' -f22 /proc/%d/stat", (int)pid);
    char *ticks = tmpdir_shell(*state, start);
    char *lie = mem_printf("%s%.*s 1 1 arm\n", text, (int)strcspn(ticks, "\n"), ticks);
    tmpdir_write(*state, "moonrise.lock", lie);
    pid_t waiter = fork();
    if (waiter == 0)
        _exit(epoch_lock(&fd, *state, &(struct claim){9, 1, "fence"}, &cancel, &e) == 0 ? 0 : 1);
    lab_pause_ms(3000);
    assert_int_equal(waitpid(pid, &status, WNOHANG), 0);
    kill(waiter, SIGKILL);
    waitpid(waiter, &status, 0);
    char *end =
        mem_printf("kill $(cat /proc/%d/task/%d/children) %d", (int)pid, (int)pid, (int)pid);
    tmpdir_do(*state, end);
    waitpid(pid, &status, 0);
    free(end);
    free(command);
    free(text);
    free(start);
    free(ticks);
    free(lie);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(comes_back_as_written, tmpdir_setup, tmpdir_teardown),
        cmocka_unit_test_setup_teardown(is_absent_or_damaged, tmpdir_setup, tmpdir_teardown),
        cmocka_unit_test(is_void_elsewhere),
        cmocka_unit_test(later_orders_only),
        cmocka_unit_test_setup_teardown(no_orders_that_are_barred, tmpdir_setup, tmpdir_teardown),
        cmocka_unit_test_setup_teardown(a_newer_order_ends_one_that_hangs, tmpdir_setup,
                                        tmpdir_teardown),
        cmocka_unit_test_setup_teardown(one_that_was_stopped_before_it_said_so_is_ended,
                                        tmpdir_setup, tmpdir_teardown),
        cmocka_unit_test_setup_teardown(an_older_one_is_refused_at_once, tmpdir_setup,
                                        tmpdir_teardown),
        cmocka_unit_test_setup_teardown(a_stranger_is_not_killed, tmpdir_setup, tmpdir_teardown),
    };
    (void)argc;
    lab_user(argv);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
