#include "../lib/until.h"

#include "moonrise/base/err.h"
#include "moonrise/loop/fd.h"
#include "moonrise/loop/signal.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct fixture {
    struct loop *l;
    struct timer *timer;
    struct fdwatch *watch;
    int calls;
    int rings;
    int events;
    int fds[2];
    int pair[2];
};

static int
setup(void **state)
{
    static struct fixture f;
    memset(&f, 0, sizeof(f));
    assert_int_equal(loop_new(&f.l, NULL), 0);
    assert_int_equal(pipe2(f.fds, O_NONBLOCK | O_CLOEXEC), 0);
    *state = &f;
    return 0;
}

static int
teardown(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(loop_handles(f->l), 0);
    loop_free(f->l);
    close(f->fds[0]);
    if (f->fds[1] >= 0)
        close(f->fds[1]);
    return 0;
}

static void
count(void *arg)
{
    ((struct fixture *)arg)->calls++;
}

static void
count_and_free(void *arg)
{
    struct fixture *f = arg;
    f->calls++;
    timer_free(f->timer);
}

static void
test_timer_once(void **state)
{
    struct fixture *f = *state;
    int64_t began = clock_ms();
    timer_start(&f->timer, f->l, 30, count_and_free, f);
    assert_int_equal(loop_handles(f->l), 1);
    loop_run(f->l);
    assert_int_equal(f->calls, 1);
    assert_in_range(clock_ms() - began, 29, 2000);
}

static void
test_timer_repeats_and_restarts(void **state)
{
    struct fixture *f = *state;
    timer_every(&f->timer, f->l, 5, count, f);
    until_count(f->l, &f->calls, 3, 5000, "three calls");
    timer_stop(f->timer);
    int calls = f->calls;
    loop_run(f->l);
    assert_int_equal(f->calls, calls);
    timer_again(f->timer, 1, 0);
    loop_run(f->l);
    assert_int_equal(f->calls, calls + 1);
    timer_free(f->timer);
}

static void
be_away(int64_t ms)
{
    for (int64_t until = clock_ms() + ms; clock_ms() < until;)
        continue;
}

/* A loop that has not looked at the clock for long must not make a timer come early. */
static void
test_timer_counts_from_now(void **state)
{
    struct fixture *f = *state;
    be_away(60);
    int64_t began = clock_ms();
    timer_start(&f->timer, f->l, 40, count, f);
    loop_run(f->l);
    assert_int_equal(f->calls, 1);
    assert_true(clock_ms() - began >= 38);
    timer_free(f->timer);
}

static void
ready(void *arg, int events)
{
    struct fixture *f = arg;
    f->calls++;
    f->events = events;
    fdwatch_free(f->watch);
    f->watch = NULL;
}

static void
ring(void *arg)
{
    ((struct fixture *)arg)->rings++;
}

/* What came while the process was away is looked at before anybody is called silent. */
static void
test_deadline_after_being_away(void **state)
{
    struct fixture *f = *state;
    struct fdwatch_spec spec = {.fd = f->fds[0], .events = FD_READ, .fn = ready, .arg = f};
    assert_int_equal(fdwatch_start(&f->watch, f->l, &spec, NULL), 0);
    timer_deadline(&f->timer, f->l, 30, ring, f);
    assert_int_equal(write(f->fds[1], "x", 1), 1);
    be_away(300);
    until_count(f->l, &f->calls, 1, 5000, "what had come");
    assert_int_equal(f->rings, 0);
    int64_t began = clock_ms();
    until_count(f->l, &f->rings, 1, 5000, "the deadline");
    assert_in_range(clock_ms() - began, 0, 2000);
    timer_free(f->timer);
}

/* The time away is given back once, and never more than what was asked for. */
static void
test_deadline_gives_back(void **state)
{
    struct fixture *f = *state;
    timer_deadline(&f->timer, f->l, 100, ring, f);
    be_away(300);
    int64_t back = clock_ms();
    loop_turn(f->l, false);
    assert_int_equal(f->rings, 0);
    be_away(300);
    loop_turn(f->l, false);
    assert_int_equal(f->rings, 1);
    assert_true(clock_ms() - back >= 100);
    timer_again(f->timer, 20, 0);
    be_away(300);
    loop_turn(f->l, false);
    assert_int_equal(f->rings, 1);
    until_count(f->l, &f->rings, 2, 5000, "the second deadline");
    timer_free(f->timer);
}

static void
watch(struct fixture *f, int fd, int events)
{
    struct fdwatch_spec spec = {.fd = fd, .events = events, .fn = ready, .arg = f};
    struct err e;
    assert_int_equal(fdwatch_start(&f->watch, f->l, &spec, &e), 0);
}

static void
test_fd_readable(void **state)
{
    struct fixture *f = *state;
    watch(f, f->fds[0], FD_READ);
    loop_turn(f->l, false);
    assert_int_equal(f->calls, 0);
    assert_int_equal(write(f->fds[1], "x", 1), 1);
    loop_run(f->l);
    assert_int_equal(f->calls, 1);
    assert_true(f->events & FD_READ);
}

static void
test_fd_pause(void **state)
{
    struct fixture *f = *state;
    watch(f, f->fds[1], 0);
    loop_run(f->l);
    assert_int_equal(f->calls, 0);
    fdwatch_set(f->watch, FD_WRITE);
    loop_run(f->l);
    assert_int_equal(f->events, FD_WRITE);
}

static void
test_fd_hangup(void **state)
{
    struct fixture *f = *state;
    watch(f, f->fds[0], FD_READ);
    close(f->fds[1]);
    f->fds[1] = -1;
    loop_run(f->l);
    assert_int_equal(f->calls, 1);
    assert_true(f->events & FD_READ);
}

static void
test_fd_regular_file(void **state)
{
    struct fixture *f = *state;
    struct err e;
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    struct fdwatch_spec spec = {.fd = fd, .events = FD_READ, .fn = ready, .arg = f};
    assert_int_equal(fdwatch_start(&f->watch, f->l, &spec, &e), ERR_PERMISSION);
    close(fd);
}

static void
signalled(void *arg, int signum)
{
    struct fixture *f = arg;
    f->events = signum;
    f->calls++;
}

static void
test_signal(void **state)
{
    struct fixture *f = *state;
    struct sigwatch *s;
    sigwatch_start(&s, f->l, SIGUSR1, signalled, f);
    loop_run(f->l); /* returns: a signal does not keep the loop alive */
    raise(SIGUSR1);
    until_count(f->l, &f->calls, 1, 5000, "the signal");
    assert_int_equal(f->events, SIGUSR1);
    sigwatch_free(s);
    struct sigaction now;
    sigaction(SIGUSR1, NULL, &now);
    assert_true(now.sa_handler == SIG_DFL);
}

static void
read_one(void *arg, int events)
{
    struct fixture *f = arg;
    char c;
    (void)events;
    ssize_t n = read(f->pair[0], &c, 1);
    f->calls++;
    if (n == 1)
        f->events++;
    else if (n == 0) {
        fdwatch_free(f->watch);
        f->watch = NULL;
    }
}

/* A peer that goes away without having read everything leaves an error behind: what it said before is
 * read first, and its end is seen then. */
static void
test_fd_error_and_more(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, f->pair), 0);
    struct fdwatch_spec spec = {.fd = f->pair[0], .events = FD_READ, .fn = read_one, .arg = f};
    assert_int_equal(fdwatch_start(&f->watch, f->l, &spec, NULL), 0);
    assert_int_equal(write(f->pair[0], "unread", 6), 6);
    assert_int_equal(write(f->pair[1], "words", 5), 5);
    close(f->pair[1]);
    /* Five bytes, the error, the end. */
    until_count(f->l, &f->calls, 7, 5000, "the peer's words and its end");
    assert_int_equal(f->events, 5);
    assert_null(f->watch);
    close(f->pair[0]);
}

static void
test_broken_pipe_is_an_error(void **state)
{
    struct fixture *f = *state;
    close(f->fds[0]);
    assert_int_equal(write(f->fds[1], "x", 1), -1);
    assert_int_equal(errno, EPIPE);
}

static void
stop(void *arg)
{
    struct fixture *f = arg;
    f->calls++;
    loop_stop(f->l);
}

static void
test_stop_and_free_with_handles(void **state)
{
    struct fixture *f = *state;
    struct loop *l;
    struct timer *a, *b;
    struct sigwatch *s;
    assert_int_equal(loop_new(&l, NULL), 0);
    struct fixture inner = {.l = l};
    timer_every(&a, l, 1, stop, &inner);
    timer_start(&b, l, 3600000, count, &inner);
    sigwatch_start(&s, l, SIGUSR2, signalled, &inner);
    loop_run(l);
    assert_int_equal(inner.calls, 1);
    assert_int_equal(loop_handles(l), 3);
    loop_stop(l);
    loop_free(l);
    assert_int_equal(f->calls, 0);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_timer_once, setup, teardown),
        cmocka_unit_test_setup_teardown(test_timer_repeats_and_restarts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_timer_counts_from_now, setup, teardown),
        cmocka_unit_test_setup_teardown(test_deadline_after_being_away, setup, teardown),
        cmocka_unit_test_setup_teardown(test_deadline_gives_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fd_readable, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fd_pause, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fd_hangup, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fd_regular_file, setup, teardown),
        cmocka_unit_test_setup_teardown(test_signal, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fd_error_and_more, setup, teardown),
        cmocka_unit_test_setup_teardown(test_broken_pipe_is_an_error, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stop_and_free_with_handles, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
