/* The agent as a process: a session, its jobs, and what ends with it. */
#include "../lib/lab.h"
#include "../lib/until.h"
#include "moonrise/wire/session.h"

static struct inst prim = {.name = "p", .dbid = 2, .content = 0};
static const struct inst mirr = {.name = "m", .port = 6002, .dbid = 3, .content = 0};

/* A session with an agent (this very program), and what came back on it. */
struct talk {
    struct lab *lab;
    struct loop *loop;
    struct session *session;
};

struct answer {
    int done;
    int progress;
    int code;
    struct message *m;
    char message[1024];
};

static int
setup(void **state)
{
    prim.port = lab_free_port();
    lab_setup(state, &prim);
    return 0;
}

static void
on_end(void *arg, const struct err *why)
{
    (void)arg;
    (void)why;
}

static void
talk_open(struct talk *t, struct lab *lab)
{
    static const char *const argv[] = {"/proc/self/exe", "agent", NULL};
    struct session_events events = {.on_end = on_end};
    struct err e = {0};
    t->lab = lab;
    assert_int_equal(loop_new(&t->loop, &e), 0);
    assert_int_equal(session_start(&t->session, t->loop, argv, &events, &e), 0);
}

static void
talk_close(struct talk *t)
{
    session_free(t->session);
    loop_free(t->loop);
}

static void
on_progress(void *arg, const struct message *m)
{
    struct answer *a = arg;
    (void)m;
    a->progress++;
}

static void
on_done(void *arg, const struct message *m, const struct err *e)
{
    struct answer *a = arg;
    a->done = 1;
    a->code = e ? e->code : 0;
    snprintf(a->message, sizeof a->message, "%s", e ? e->message : "");
    if (m) {
        char *text = message_format(m);
        assert_int_equal(message_parse(&a->m, text, strlen(text), NULL), 0);
        free(text);
    }
}

static uint32_t
ask(struct talk *t, struct answer *a, const struct inst *i, const char *op, const char *more)
{
    struct message *args;
    struct session_call call = {.on_progress = on_progress, .on_done = on_done, .arg = a};
    char *json = lab_json(t->lab, i, more);
    *a = (struct answer){0};
    assert_int_equal(message_parse(&args, json, strlen(json), NULL), 0);
    uint32_t id = session_call(t->session, op, args, 0, &call);
    message_free(args);
    free(json);
    return id;
}

static void
await_answer(struct talk *t, struct answer *a, const char *what)
{
    until_count(t->loop, &a->done, 1, 30000, what);
}

static void
answers(void **state)
{
    struct talk t;
    struct answer hello, unknown, word[8];
    talk_open(&t, *state);
    ask(&t, &hello, &prim, "hello", "");
    ask(&t, &unknown, &prim, "conquer", "");
    for (int i = 0; i < 8; i++)
        ask(&t, &word[i], &prim, "inspect", "");
    await_answer(&t, &hello, "hello");
    assert_int_equal(hello.code, 0);
    assert_int_equal(message_int(hello.m, "uid", -1), geteuid());
    message_free(hello.m);
    await_answer(&t, &unknown, "an operation that does not exist");
    assert_int_equal(unknown.code, ERR_PROTOCOL);
    for (int i = 0; i < 8; i++) {
        await_answer(&t, &word[i], "inspect");
        assert_false(message_bool(word[i].m, "stopped", true));
        message_free(word[i].m);
    }
    talk_close(&t);
}

/* A smart stop waits for a client without holding anybody up; an order of a newer epoch ends it. */
static void
a_newer_order_supersedes_a_wait(void **state)
{
    struct lab *lab = *state;
    struct talk t;
    struct answer smart, fast;
    char *sleeper = mem_printf("($PG/psql -h $DIR/p -p %d -d postgres -Xqc 'select pg_sleep(100)' "
                               ">/dev/null 2>&1 &) </dev/null",
                               prim.port);
    tmpdir_do(lab->dir, sleeper);
    free(sleeper);
    lab_sql_until(lab, &prim, "select count(*) from pg_stat_activity where wait_event = 'PgSleep'",
                  "1");
    talk_open(&t, lab);
    ask(&t, &smart, &prim, "stop", "\"mode\":\"smart\",\"wait_ms\":60000");
    int64_t until = clock_ms() + 5000;
    char *status = NULL;
    do {
        loop_turn(t.loop, false);
        free(status);
        status = tmpdir_shell(lab->dir, "sed -n 8p $DIR/p/postmaster.pid");
    } while (!strstr(status, "stopping") && clock_ms() < until);
    assert_non_null(strstr(status, "stopping"));
    free(status);
    assert_false(smart.done);
    ask(&t, &fast, &prim, "stop", "\"mode\":\"fast\"");
    await_answer(&t, &smart, "the end of the smart stop");
    assert_true(smart.code == ERR_CANCELLED || smart.code == ERR_STALE);
    await_answer(&t, &fast, "the fast stop");
    if (fast.code != 0)
        fail_msg("fast stop: %s", fast.message);
    assert_true(message_bool(fast.m, "stopped", false));
    message_free(fast.m);
    talk_close(&t);
    lab_do(lab, &prim, "start", "\"listen\":\"\"");
}

/* A recovery ends when it is withdrawn, and when the session that asked for it ends. */
static void
work_ends_with_its_session(void **state)
{
    struct lab *lab = *state;
    struct talk t;
    struct answer copy;
    char *args = lab_recover_args(lab, &prim, &mirr, "full");
    char *slow = mem_printf("%s,\"max_rate\":2000000", args);
    talk_open(&t, lab);
    uint32_t id = ask(&t, &copy, &mirr, "recover", slow);
    until_count(t.loop, &copy.progress, 3, 20000, "progress");
    assert_int_equal(lab_postmaster(lab, &mirr), -session_pid(t.session));
    session_cancel(t.session, id);
    await_answer(&t, &copy, "the end of a recovery that was withdrawn");
    assert_int_equal(copy.code, ERR_CANCELLED);
    assert_false(lab_has(lab, &mirr, "postmaster.pid"));
    assert_true(lab_has(lab, &mirr, "moonrise.patch"));

    /* An order of a newer epoch does not wait for it. */
    struct answer newer;
    ask(&t, &copy, &mirr, "recover", slow);
    until_count(t.loop, &copy.progress, 3, 20000, "progress");
    int64_t began = clock_ms();
    ask(&t, &newer, &mirr, "recover", "\"type\":\"none\"");
    await_answer(&t, &newer, "a newer order");
    assert_int_equal(newer.code, ERR_ARGUMENT);
    assert_in_range(clock_ms() - began, 0, 3000);
    await_answer(&t, &copy, "the end of an older recovery");
    assert_int_equal(copy.code, ERR_CANCELLED);

    ask(&t, &copy, &mirr, "recover", slow);
    until_count(t.loop, &copy.progress, 3, 20000, "progress");
    int pid = session_pid(t.session);
    talk_close(&t);
    int64_t until = clock_ms() + 5000;
    while (kill(pid, 0) == 0 && clock_ms() < until)
        lab_pause_ms(5);
    assert_int_equal(kill(pid, 0), -1);
    lab_sql_until(lab, &prim,
                  "select count(*) from pg_stat_activity where application_name like "
                  "'moonrise recover%'",
                  "0");
    lab_mirror(lab, &prim, &mirr, "differential");
    free(slow);
    free(args);
}

/* Servers outlive the agent that has started them. */
static void
servers_live_on(void **state)
{
    struct lab *lab = *state;
    struct talk t;
    struct answer a;
    talk_open(&t, lab);
    ask(&t, &a, &prim, "stop", "");
    await_answer(&t, &a, "stop");
    message_free(a.m);
    ask(&t, &a, &prim, "start", "\"listen\":\"127.0.0.1\"");
    await_answer(&t, &a, "start");
    if (a.code != 0)
        fail_msg("start: %s", a.message);
    message_free(a.m);
    talk_close(&t);
    lab_sql_is(lab, &prim, "show listen_addresses", "127.0.0.1");
    /* One that was started from its files alone is started anew, to listen. */
    tmpdir_do(lab->dir, "$PG/pg_ctl -D $DIR/p -w -m fast stop >/dev/null; "
                        "$PG/pg_ctl -D $DIR/p -w -l $DIR/log start >/dev/null");
    lab_sql_is(lab, &prim, "show listen_addresses", "");
    lab_do(lab, &prim, "start", "\"listen\":\"127.0.0.1\"");
    lab_sql_is(lab, &prim, "show listen_addresses", "127.0.0.1");
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers),
        cmocka_unit_test(a_newer_order_supersedes_a_wait),
        cmocka_unit_test(work_ends_with_its_session),
        cmocka_unit_test(servers_live_on),
    };
    if (argc == 2 && strcmp(argv[1], "agent") == 0)
        return agent_main();
    lab_user(argv);
    return cmocka_run_group_tests(tests, setup, lab_teardown);
}
