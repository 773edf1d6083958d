#include "../lib/until.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"
#include "moonrise/loop/child.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct fixture {
    struct loop *l;
    struct child *c;
    struct str out, err;
    int out_ended, err_ended, exited;
    int exit_code, signal;
    bool free_on_output;
};

static int
setup(void **state)
{
    struct fixture *f = mem_zalloc(sizeof(*f));
    str_init(&f->out);
    str_init(&f->err);
    assert_int_equal(loop_new(&f->l, NULL), 0);
    *state = f;
    return 0;
}

static int
teardown(void **state)
{
    struct fixture *f = *state;
    child_free(f->c);
    assert_int_equal(loop_handles(f->l), 0);
    loop_run(f->l);
    loop_free(f->l);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1); /* no zombie is left */
    str_free(&f->out);
    str_free(&f->err);
    free(f);
    return 0;
}

static void
on_stdout(void *arg, const void *bytes, size_t len)
{
    struct fixture *f = arg;
    assert_int_equal(f->exited, 0);
    str_append(&f->out, bytes, len);
    f->out_ended += len == 0;
    if (f->free_on_output) {
        child_free(f->c);
        f->c = NULL;
    }
}

static void
on_stderr(void *arg, const void *bytes, size_t len)
{
    struct fixture *f = arg;
    str_append(&f->err, bytes, len);
    f->err_ended += len == 0;
}

static void
exited(void *arg, int exit_code, int signal)
{
    struct fixture *f = arg;
    f->exit_code = exit_code;
    f->signal = signal;
    f->exited++;
}

static void
start(struct fixture *f, const char *const *argv)
{
    struct child_spec spec = {.argv = argv,
                              .pipe_stdin = true,
                              .on_stdout = on_stdout,
                              .on_stderr = on_stderr,
                              .on_exit = exited,
                              .arg = f};
    struct err e;
    if (child_start(&f->c, f->l, &spec, &e) != 0)
        fail_msg("%s", e.message);
}

static void
shell(struct fixture *f, const char *script)
{
    start(f, (const char *const[]){"sh", "-c", script, NULL});
}

static void
test_outputs_and_code(void **state)
{
    struct fixture *f = *state;
    shell(f, "echo out; echo err >&2; exit 7");
    loop_run(f->l);
    assert_int_equal(f->exited, 1);
    assert_int_equal(f->exit_code, 7);
    assert_int_equal(f->signal, 0);
    assert_string_equal(f->out.data, "out\n");
    assert_string_equal(f->err.data, "err\n");
    assert_int_equal(f->out_ended, 1);
    assert_int_equal(f->err_ended, 1);
}

static void
test_stdin_much(void **state)
{
    struct fixture *f = *state;
    size_t len = 4 << 20;
    char *bytes = mem_alloc(len);
    for (size_t i = 0; i < len; i++)
        bytes[i] = (char)(i * 31 + i / 977);
    start(f, (const char *const[]){"cat", NULL});
    child_write(f->c, bytes, len / 2);
    child_write(f->c, bytes + len / 2, len - len / 2);
    assert_true(child_unsent_bytes(f->c) > 0);
    child_close_stdin(f->c);
    loop_run(f->l);
    assert_int_equal(f->exited, 1);
    assert_int_equal(f->out.len, len);
    assert_memory_equal(f->out.data, bytes, len);
    free(bytes);
}

static void
test_writing_to_one_that_ended(void **state)
{
    struct fixture *f = *state;
    shell(f, "exec 0<&-; echo closed; read x");
    until_count(f->l, &f->exited, 1, 10000, "the child's end");
    child_write(f->c, "more", 4);
    child_close_stdin(f->c);
    loop_run(f->l);
    assert_int_equal(f->exited, 1);
}

static void
test_own_group_and_kill(void **state)
{
    struct fixture *f = *state;
    shell(f, "tail -f /dev/null & echo started; wait");
    until_count(f->l, (int *)&f->out.len, 8, 10000, "the child's word");
    assert_int_equal(getpgid(child_pid(f->c)), child_pid(f->c));
    child_kill(f->c, SIGTERM, true);
    until_count(f->l, &f->exited, 1, 10000, "the child's end");
    assert_int_equal(f->exit_code, -1);
    assert_int_equal(f->signal, SIGTERM);
    child_kill(f->c, SIGKILL, true); /* reaped: nothing happens */
}

/* A grandchild that keeps the output open does not hide that the child is gone. */
static void
test_grandchild_holds_output(void **state)
{
    struct fixture *f = *state;
    shell(f, "tail -f /dev/null & echo $!");
    int64_t began = clock_ms();
    until_count(f->l, &f->exited, 1, 10000, "the child's end");
    assert_in_range(clock_ms() - began, 900, 9000);
    assert_int_equal(f->out_ended, 1);
    kill(atoi(f->out.data), SIGKILL);
}

static void
test_not_found(void **state)
{
    struct fixture *f = *state;
    struct err e;
    struct child_spec spec = {.argv = (const char *const[]){"/nonexistent/program", NULL}};
    assert_int_equal(child_start(&f->c, f->l, &spec, &e), ERR_NOTFOUND);
    assert_non_null(strstr(e.message, "/nonexistent/program"));
    spec.argv = (const char *const[]){"/etc/passwd", NULL};
    assert_int_equal(child_start(&f->c, f->l, &spec, &e), ERR_PERMISSION);
    f->c = NULL;
}

static void
test_environment_and_directory(void **state)
{
    struct fixture *f = *state;
    struct child_spec spec = {.argv = (const char *const[]){"/bin/sh", "-c", "echo $X; pwd", NULL},
                              .env = (const char *const[]){"X=moon", NULL},
                              .cwd = "/",
                              .on_stdout = on_stdout,
                              .on_exit = exited,
                              .arg = f};
    assert_int_equal(child_start(&f->c, f->l, &spec, NULL), 0);
    loop_run(f->l);
    assert_string_equal(f->out.data, "moon\n/\n");
}

static void
test_free_kills_and_reaps(void **state)
{
    struct fixture *f = *state;
    shell(f, "echo started; exec tail -f /dev/null");
    f->free_on_output = true;
    int64_t began = clock_ms();
    loop_run(f->l);
    assert_true(clock_ms() - began < 9000);
    assert_int_equal(f->exited, 0);
}

static void
test_loop_free_with_child(void **state)
{
    struct fixture *f = *state;
    struct loop *outer = f->l;
    assert_int_equal(loop_new(&f->l, NULL), 0);
    shell(f, "echo started; exec tail -f /dev/null");
    until_count(f->l, (int *)&f->out.len, 8, 10000, "the child's word");
    loop_free(f->l);
    f->l = outer;
    f->c = NULL;
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_outputs_and_code, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stdin_much, setup, teardown),
        cmocka_unit_test_setup_teardown(test_writing_to_one_that_ended, setup, teardown),
        cmocka_unit_test_setup_teardown(test_own_group_and_kill, setup, teardown),
        cmocka_unit_test_setup_teardown(test_grandchild_holds_output, setup, teardown),
        cmocka_unit_test_setup_teardown(test_not_found, setup, teardown),
        cmocka_unit_test_setup_teardown(test_environment_and_directory, setup, teardown),
        cmocka_unit_test_setup_teardown(test_free_kills_and_reaps, setup, teardown),
        cmocka_unit_test_setup_teardown(test_loop_free_with_child, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
