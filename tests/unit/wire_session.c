#include "../lib/until.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"
#include "moonrise/base/version.h"
#include "moonrise/wire/frame.h"
#include "moonrise/wire/message.h"
#include "moonrise/wire/session.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* The far end: this program again, run with the name of what it plays. */

struct far {
    struct loop *l;
    uint32_t waiting; /* the call that waits to be withdrawn */
};

static void
far_progress(struct session *s, uint32_t id, int64_t steps)
{
    for (int64_t i = 0; i < steps; i++) {
        struct message *m = message_new();
        message_set_int(m, "step", i);
        session_progress(s, id, m);
        message_free(m);
    }
}

static void
far_call(void *arg, struct session *s, uint32_t id, const char *op, const struct message *args)
{
    struct far *far = arg;
    struct err e;
    if (strcmp(op, "wait") == 0) {
        far->waiting = id;
    } else if (strcmp(op, "exit") == 0) {
        fprintf(stderr, "first line\nno more today\n");
        _exit(3);
    } else if (strcmp(op, "stop") == 0) {
        raise(SIGSTOP);
    } else if (strcmp(op, "fail") == 0) {
        err_set(&e, ERR_STALE, "not newer");
        strcpy(e.sqlstate, "MR003");
        e.sys_errno = ENOSPC;
        err_hint(&e, "look");
        session_fail(s, id, &e);
    } else {
        printf("a stray print must not reach the channel\n");
        fflush(stdout);
        far_progress(s, id, message_int(args, "steps", 0));
        session_reply(s, id, args);
        session_reply(s, id, args); /* a second answer goes nowhere */
    }
}

static void
far_cancel(void *arg, struct session *s, uint32_t id)
{
    struct far *far = arg;
    struct err e;
    if (id != far->waiting)
        return;
    err_set(&e, ERR_CANCELLED, "withdrawn");
    session_fail(s, id, &e);
}

static void
far_end(void *arg, const struct err *why)
{
    struct far *far = arg;
    (void)why;
    loop_stop(far->l);
}

static int
far_serve(void)
{
    struct far far = {0};
    struct session *s;
    struct session_events ev = {far_call, far_cancel, far_end, &far, NULL};
    if (loop_new(&far.l, NULL) != 0 || session_serve(&s, far.l, &ev, NULL) != 0)
        return 1;
    loop_run(far.l);
    session_free(s);
    loop_free(far.l);
    return 0;
}

/* Calls and calls, and reads no answer. */
static int
far_nag(void)
{
    struct str out = STR_INIT;
    char hello[100];
    int len = snprintf(hello, sizeof(hello), "{\"protocol\":2,\"version\":\"%s\",\"serves\":true}",
                       MOONRISE_VERSION);
    frame_append(&out, &(struct frame){.type = FRAME_HELLO, .payload = hello, .len = (size_t)len});
    if (write(1, out.data, out.len) < 0)
        return 1;
    str_clear(&out);
    while (out.len < 60000)
        frame_append(&out, &(struct frame){.type = FRAME_CALL, .id = 1, .payload = "{}", .len = 2});
    while (write(1, out.data, out.len) > 0)
        continue;
    return 1;
}

static int
far_main(const char *role)
{
    if (strcmp(role, "serve") == 0)
        return far_serve();
    if (strcmp(role, "echo") == 0)
        return execlp("cat", "cat", NULL);
    if (strcmp(role, "old") == 0) {
        struct str out = STR_INIT;
        frame_append(&out, &(struct frame){.type = FRAME_HELLO, .payload = "{}", .len = 2});
        return write(1, out.data, out.len) > 0 ? pause() : 1;
    }
    if (strcmp(role, "hostile") == 0) {
        char hello[FRAME_HEAD_BYTES] = "\x89MR\x01\xff\xff\xff\xff";
        return write(1, hello, sizeof(hello)) > 0 ? pause() : 1;
    }
    return strcmp(role, "deaf") == 0 ? far_nag() : pause(); /* mute */
}

struct fixture {
    struct loop *l;
    struct session *s;
    int pid, done, ended, progressed;
    struct err e, why;
    char *answer;
    bool free_in_done, call_in_done, free_in_progress;
};

static int
setup(void **state)
{
    struct fixture *f = mem_zalloc(sizeof(*f));
    assert_int_equal(loop_new(&f->l, NULL), 0);
    *state = f;
    return 0;
}

/* One that does not end with its input is killed after a grace, which nobody waits for here. */
static void
put_down(struct fixture *f)
{
    if (f->pid > 0)
        kill(f->pid, SIGKILL);
    session_free(f->s);
    f->s = NULL;
    f->pid = 0;
}

static int
teardown(void **state)
{
    struct fixture *f = *state;
    put_down(f);
    assert_int_equal(loop_handles(f->l), 0);
    loop_free(f->l);
    assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
    free(f->answer);
    free(f);
    return 0;
}

static void
ended(void *arg, const struct err *why)
{
    struct fixture *f = arg;
    f->ended++;
    f->why = *why;
}

static void
start(struct fixture *f, const char *role)
{
    struct session_events ev = {.on_end = ended, .arg = f};
    struct err e;
    const char *argv[] = {"/proc/self/exe", role, NULL};
    if (session_start(&f->s, f->l, argv, &ev, &e) != 0)
        fail_msg("%s", e.message);
    f->pid = session_pid(f->s);
}

static void call(struct fixture *f, const char *op, const struct message *args, int64_t ms);

static void
done(void *arg, const struct message *m, const struct err *e)
{
    struct fixture *f = arg;
    assert_true((m == NULL) != (e == NULL));
    f->done++;
    f->e = e ? *e : (struct err){0};
    free(f->answer);
    f->answer = m ? message_format(m) : NULL;
    if (f->free_in_done) {
        session_free(f->s);
        f->s = NULL;
    }
    if (f->call_in_done) {
        f->call_in_done = false;
        call(f, "echo", NULL, 0);
    }
}

static void
progress(void *arg, const struct message *m)
{
    struct fixture *f = arg;
    assert_int_equal(message_int(m, "step", -1), f->progressed);
    f->progressed++;
    if (f->free_in_progress) {
        session_free(f->s);
        f->s = NULL;
    }
}

static void
call(struct fixture *f, const char *op, const struct message *args, int64_t ms)
{
    struct session_call c = {progress, done, f};
    int before = f->done;
    session_call(f->s, op, args, ms, &c);
    assert_int_equal(f->done, before);
}

static void
wait_done(struct fixture *f, int n)
{
    until_count(f->l, &f->done, n, 20000, "an answer");
}

static void
test_answers(void **state)
{
    struct fixture *f = *state;
    struct message *args = message_new();
    start(f, "serve");
    message_set_int(args, "steps", 100);
    call(f, "echo", args, 10000);
    message_free(args);
    wait_done(f, 1);
    assert_int_equal(f->progressed, 100);
    assert_string_equal(f->answer, "{\"steps\":100}");
    call(f, "echo", NULL, 0);
    wait_done(f, 2);
    assert_string_equal(f->answer, "{}");
    call(f, "fail", NULL, 10000);
    wait_done(f, 3);
    assert_int_equal(f->e.code, ERR_STALE);
    assert_string_equal(f->e.message, "not newer");
    assert_string_equal(f->e.hint, "look");
    assert_string_equal(f->e.sqlstate, "MR003");
    assert_int_equal(f->e.sys_errno, ENOSPC);
    assert_true(session_pid(f->s) > 0);
    assert_int_equal(f->ended, 0);
}

static void
test_many_and_large(void **state)
{
    struct fixture *f = *state;
    struct message *args = message_new();
    char *text = mem_alloc(100001);
    memset(text, 'x', 100000);
    text[100000] = '\0';
    message_set_text(args, "text", text);
    free(text);
    start(f, "serve");
    for (int i = 0; i < 100; i++)
        call(f, "echo", args, 60000);
    message_free(args);
    wait_done(f, 100);
    assert_int_equal(f->e.code, 0);
    assert_int_equal(strlen(f->answer), 100011);
}

static void
test_too_large(void **state)
{
    struct fixture *f = *state;
    struct message *args = message_new();
    char *text = mem_alloc(FRAME_PAYLOAD_BYTES + 1);
    memset(text, 'x', FRAME_PAYLOAD_BYTES);
    text[FRAME_PAYLOAD_BYTES] = '\0';
    message_set_text(args, "text", text);
    free(text);
    start(f, "serve");
    call(f, "echo", args, 60000);
    message_free(args);
    wait_done(f, 1);
    assert_int_equal(f->e.code, ERR_LIMIT);
    call(f, "echo", NULL, 0);
    wait_done(f, 2);
    assert_int_equal(f->e.code, 0);
}

static void
test_cancel_and_timeout(void **state)
{
    struct fixture *f = *state;
    struct session_call c = {NULL, done, f};
    start(f, "serve");
    uint32_t id = session_call(f->s, "wait", NULL, 0, &c);
    session_cancel(f->s, id);
    wait_done(f, 1);
    assert_int_equal(f->e.code, ERR_CANCELLED);
    assert_string_equal(f->e.message, "withdrawn");
    call(f, "wait", NULL, 50);
    wait_done(f, 2);
    assert_int_equal(f->e.code, ERR_TIMEOUT);
    /* The late answer to the call that was given up does no harm. */
    call(f, "echo", NULL, 10000);
    wait_done(f, 3);
    assert_int_equal(f->e.code, 0);
}

static void
test_far_end_exits(void **state)
{
    struct fixture *f = *state;
    start(f, "serve");
    call(f, "wait", NULL, 0);
    call(f, "exit", NULL, 0);
    until_count(f->l, &f->ended, 1, 10000, "the end");
    assert_int_equal(f->done, 2);
    assert_int_equal(f->e.code, ERR_CONNECT);
    assert_string_equal(f->why.message, "the agent ended with code 3: no more today");
    call(f, "echo", NULL, 0); /* on a session that is over */
    wait_done(f, 3);
    assert_int_equal(f->e.code, ERR_CONNECT);
    assert_int_equal(f->ended, 1);
}

static void
test_far_end_killed(void **state)
{
    struct fixture *f = *state;
    start(f, "serve");
    call(f, "echo", NULL, 0);
    wait_done(f, 1);
    f->call_in_done = true; /* also from inside of a failure */
    call(f, "wait", NULL, 0);
    call(f, "wait", NULL, 0);
    kill(session_pid(f->s), SIGKILL);
    wait_done(f, 4);
    assert_int_equal(f->ended, 1);
    assert_non_null(strstr(f->why.message, "signal 9"));
}

static void
test_far_end_hangs(void **state)
{
    struct fixture *f = *state;
    start(f, "serve");
    session_set_heartbeat(f->s, 20, 200);
    call(f, "echo", NULL, 0);
    wait_done(f, 1);
    int64_t began = clock_ms();
    call(f, "stop", NULL, 0);
    until_count(f->l, &f->ended, 1, 10000, "the end");
    assert_in_range(clock_ms() - began, 180, 5000);
    assert_int_equal(f->why.code, ERR_CONNECT);
    assert_int_equal(f->done, 2);
}

static void
test_heartbeats_keep_it_alive(void **state)
{
    struct fixture *f = *state;
    start(f, "serve");
    session_set_heartbeat(f->s, 20, 400);
    call(f, "wait", NULL, 1500);
    wait_done(f, 1);
    assert_int_equal(f->e.code, ERR_TIMEOUT);
    assert_int_equal(f->ended, 0);
}

static void
test_mute_and_hostile_ends(void **state)
{
    struct fixture *f = *state;
    const struct {
        const char *role;
        int code;
    } ends[] = {{"mute", ERR_CONNECT},
                {"old", ERR_VERSION},
                {"hostile", ERR_PROTOCOL},
                {"echo", ERR_PROTOCOL}};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        f->ended = f->done = 0;
        start(f, ends[i].role);
        session_set_heartbeat(f->s, 20, 200);
        call(f, "echo", NULL, 0);
        until_count(f->l, &f->ended, 1, 10000, ends[i].role);
        assert_int_equal(f->why.code, ends[i].code);
        assert_int_equal(f->e.code, ends[i].code);
        assert_int_equal(f->done, 1);
        put_down(f);
    }
}

/* What it is owed is not kept for it without an end. */
static void
test_an_end_that_reads_nothing(void **state)
{
    struct fixture *f = *state;
    start(f, "deaf");
    until_count(f->l, &f->ended, 1, 30000, "the end");
    assert_int_equal(f->why.code, ERR_CONNECT);
    assert_string_equal(f->why.message, "the other end does not read what it is sent");
}

static void
test_free_from_callbacks(void **state)
{
    struct fixture *f = *state;
    struct message *args = message_new();
    message_set_int(args, "steps", 10);
    start(f, "serve");
    call(f, "wait", NULL, 0);
    call(f, "echo", args, 0);
    f->free_in_progress = true;
    until_count(f->l, &f->progressed, 1, 10000, "progress");
    assert_int_equal(f->progressed, 1);
    assert_int_equal(f->done, 2);
    assert_int_equal(f->e.code, ERR_CANCELLED);
    f->free_in_progress = false;
    f->free_in_done = true;
    start(f, "serve");
    call(f, "wait", NULL, 0);
    call(f, "echo", NULL, 0);
    until_count(f->l, &f->done, 4, 10000, "the answer");
    assert_int_equal(f->ended, 0);
    message_free(args);
}

/* An agent ends with its connection, and its pid is gone when the loop has nothing left to do. */
static void
test_freeing_ends_the_far_end(void **state)
{
    struct fixture *f = *state;
    start(f, "serve");
    call(f, "echo", NULL, 0);
    wait_done(f, 1);
    int pid = session_pid(f->s);
    session_free(f->s);
    f->s = NULL;
    int64_t began = clock_ms();
    loop_run(f->l);
    assert_true(clock_ms() - began < 1500); /* its input ended: no need to kill it */
    assert_int_equal(kill(pid, 0), -1);
}

static void
test_no_program(void **state)
{
    struct fixture *f = *state;
    struct session_events ev = {0};
    const char *argv[] = {"/nonexistent/agent", NULL};
    assert_int_equal(session_start(&f->s, f->l, argv, &ev, NULL), ERR_NOTFOUND);
    assert_null(f->s);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_answers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_and_large, setup, teardown),
        cmocka_unit_test_setup_teardown(test_too_large, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cancel_and_timeout, setup, teardown),
        cmocka_unit_test_setup_teardown(test_far_end_exits, setup, teardown),
        cmocka_unit_test_setup_teardown(test_far_end_killed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_far_end_hangs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_heartbeats_keep_it_alive, setup, teardown),
        cmocka_unit_test_setup_teardown(test_mute_and_hostile_ends, setup, teardown),
        cmocka_unit_test_setup_teardown(test_an_end_that_reads_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_free_from_callbacks, setup, teardown),
        cmocka_unit_test_setup_teardown(test_freeing_ends_the_far_end, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_program, setup, teardown),
    };
    if (argc > 1)
        return far_main(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
