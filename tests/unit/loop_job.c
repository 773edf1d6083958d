#include "../lib/until.h"

#include "moonrise/base/str.h"
#include "moonrise/loop/job.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MESSAGES 5000

struct work {
    struct loop *l;
    struct job *job;
    int limit;
    int said, done; /* the loop's */
    int result;     /* the job's, the loop's once it is done */
    int fds[2];
    bool in_order;
};

static int
setup(void **state)
{
    struct work *w = mem_zalloc(sizeof(*w));
    assert_int_equal(loop_new(&w->l, NULL), 0);
    assert_int_equal(pipe(w->fds), 0);
    w->in_order = true;
    *state = w;
    return 0;
}

static int
teardown(void **state)
{
    struct work *w = *state;
    assert_int_equal(loop_handles(w->l), 0);
    loop_free(w->l);
    close(w->fds[0]);
    close(w->fds[1]);
    free(w);
    return 0;
}

static void
run_talk(struct job_self *self, void *arg)
{
    struct work *w = arg;
    for (int i = 0; i < w->limit; i++) {
        int *n = mem_alloc(sizeof(*n));
        *n = i;
        job_post(self, n);
    }
    w->result = w->limit;
}

static void
said(void *arg, void *message)
{
    struct work *w = arg;
    w->in_order = w->in_order && *(int *)message == w->said && w->done == 0;
    w->said++;
    free(message);
}

static void
done(void *arg)
{
    struct work *w = arg;
    w->done++;
    w->job = NULL;
}

static void
start(struct work *w, void (*run)(struct job_self *self, void *arg))
{
    struct job_spec spec = {.run = run, .done = done, .said = said, .arg = w};
    assert_int_equal(job_start(&w->job, w->l, &spec, NULL), 0);
}

static void
test_messages_in_order(void **state)
{
    struct work *w = *state;
    w->limit = MESSAGES;
    start(w, run_talk);
    loop_run(w->l);
    assert_int_equal(w->said, MESSAGES);
    assert_int_equal(w->result, MESSAGES);
    assert_int_equal(w->done, 1);
    assert_true(w->in_order);
}

static void
run_until_cancelled(struct job_self *self, void *arg)
{
    struct work *w = arg;
    int *n = mem_zalloc(sizeof(*n));
    job_post(self, n);
    while (!atomic_load(&self->cancel))
        w->result++;
}

static void
test_cancel(void **state)
{
    struct work *w = *state;
    start(w, run_until_cancelled);
    until_count(w->l, &w->said, 1, 5000, "the job's first word");
    assert_int_equal(w->done, 0);
    job_cancel(w->job);
    until_count(w->l, &w->done, 1, 5000, "the job's end");
}

static void
run_read(struct job_self *self, void *arg)
{
    struct work *w = arg;
    char c;
    (void)self;
    w->result = (int)read(w->fds[0], &c, 1);
}

/* A job that blocks does not block the loop. */
static void
test_loop_goes_on(void **state)
{
    struct work *w = *state;
    start(w, run_read);
    for (int i = 0; i < 10; i++)
        loop_turn(w->l, false);
    assert_int_equal(w->done, 0);
    assert_int_equal(write(w->fds[1], "x", 1), 1);
    loop_run(w->l);
    assert_int_equal(w->done, 1);
    assert_int_equal(w->result, 1);
}

static void
test_many(void **state)
{
    struct work *w = *state;
    struct work many[32];
    for (int i = 0; i < 32; i++) {
        many[i] = (struct work){.l = w->l, .limit = 100, .in_order = true};
        start(&many[i], run_talk);
    }
    loop_run(w->l);
    for (int i = 0; i < 32; i++) {
        assert_int_equal(many[i].done, 1);
        assert_int_equal(many[i].said, 100);
        assert_true(many[i].in_order);
    }
}

static void
test_loop_free_cancels(void **state)
{
    struct work *w = *state;
    struct loop *outer = w->l;
    assert_int_equal(loop_new(&w->l, NULL), 0);
    start(w, run_until_cancelled);
    loop_free(w->l);
    w->l = outer;
    assert_int_equal(w->done, 1);
    assert_int_equal(w->said, 1);
}

static void
run_read_left(struct job_self *self, void *arg)
{
    char c;
    (void)self;
    *(ssize_t *)arg = read(*(int *)arg, &c, 1);
}

static int left_fd;

static void
left(void *arg)
{
    free(arg);
    if (write(left_fd, "x", 1) != 1)
        abort(); /* cmocka's failures are for its own thread */
}

/* Starts a job that reads from one end of a pipe, and frees its loop. */
static void
leave_reading(struct work *w, int fd)
{
    struct loop *own;
    struct job *job;
    ssize_t *arg = mem_zalloc(sizeof(*arg));
    *(int *)arg = fd;
    struct job_spec spec = {.run = run_read_left, .done = done, .left = left, .arg = arg};
    assert_int_equal(loop_new(&own, NULL), 0);
    assert_int_equal(job_start(&job, own, &spec, NULL), 0);
    loop_free(own);
    assert_int_equal(w->done, 0);
}

/* A loop that goes away does not wait for work that may be left, and who is through last frees it. */
static void
test_loop_free_leaves(void **state)
{
    struct work *w = *state;
    int ended[2];
    char c;
    assert_int_equal(pipe(ended), 0);
    left_fd = ended[1];
    leave_reading(w, w->fds[0]);
    assert_int_equal(write(w->fds[1], "x", 1), 1);
    assert_int_equal(read(ended[0], &c, 1), 1);
    close(ended[0]);
    close(ended[1]);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_messages_in_order, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cancel, setup, teardown),
        cmocka_unit_test_setup_teardown(test_loop_goes_on, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many, setup, teardown),
        cmocka_unit_test_setup_teardown(test_loop_free_cancels, setup, teardown),
        cmocka_unit_test_setup_teardown(test_loop_free_leaves, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
