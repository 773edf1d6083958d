#include "probe_fixture.h"

#include <errno.h>
#include <sys/resource.h>
#include <sys/un.h>

static void
test_primary_answers(void **state)
{
    struct fixture *f = *state;
    set(f, &primary);
    const struct observation *o = next(f);
    assert_string_equal(o->message, "");
    assert_int_equal(o->evidence, EVIDENCE_NONE);
    assert_int_equal(o->dbid, 1);
    assert_true(o->fresh);
    assert_false(o->in_recovery);
    assert_int_equal(o->timeline, 1);
    assert_string_equal(o->sysid, sysid);
    assert_true(o->lsn > 0);
    assert_int_equal(o->replay_lsn, 0);
    assert_string_equal(o->sync_names, "");
    assert_string_equal(o->sync_commit, "on");
    assert_false(o->peer);
    o = next(f);
    assert_false(o->fresh);
    assert_int_equal(o->evidence, EVIDENCE_NONE);
}

/* A standby of `primary`, streaming through its slot. */
static void
make_mirror(void)
{
    int status;
    if (mirror.dir)
        return;
    pg_make(&mirror, NULL);
    char *log = mem_printf("%s.log", mirror.dir);
    char *clean[] = {(char *)"/usr/bin/find", mirror.dir, (char *)"-mindepth", (char *)"1",
                     (char *)"-delete",       NULL};
    assert_int_equal(waitpid(pg_run(log, clean), &status, 0) > 0 ? status : -1, 0);
    char *program = mem_printf("%s/pg_basebackup", primary.bin);
    char *argv[] = {program,      (char *)"-D",       mirror.dir,   (char *)"-R",
                    (char *)"-h", primary.dir,        (char *)"-p", primary.port,
                    (char *)"-U", (char *)"moonrise", (char *)"-S", (char *)"mr_slot_2",
                    (char *)"-c", (char *)"fast",     NULL};
    assert_int_equal(waitpid(pg_run(log, argv), &status, 0) > 0 ? status : -1, 0);
    char *conf =
        mem_printf("\nport = %s\nunix_socket_directories = '%s'\n", mirror.port, mirror.dir);
    pg_write(&mirror, "postgresql.conf", "a", conf);
    free(conf);
    free(log);
    free(program);
    pg_start(&mirror);
}

static void
test_pair(void **state)
{
    struct fixture *f = *state;
    make_mirror();
    set(f, &primary);
    const struct observation *o = next(f);
    int64_t deadline = clock_ms() + 20000;
    while (!(o->peer && strcmp(o->peer_state, "streaming") == 0 && o->peer_flush_lsn >= o->lsn) &&
           clock_ms() < deadline)
        o = next(f);
    assert_true(o->peer);
    assert_string_equal(o->peer_name, "walreceiver");
    assert_string_equal(o->peer_sync, "async");
    assert_true(o->peer_sent_lsn >= o->peer_flush_lsn && o->peer_replay_lsn > 0);
    lsn_t flushed = o->lsn;
    set(f, &mirror);
    await(f, EVIDENCE_NONE);
    o = next(f);
    assert_true(o->in_recovery);
    assert_true(o->receiver);
    assert_false(o->replay_paused);
    assert_int_equal(o->timeline, 1);
    assert_true(o->lsn >= flushed && o->replay_lsn >= flushed);
    free(pg_sql(&mirror, "select pg_wal_replay_pause()"));
    while (!o->replay_paused && clock_ms() < deadline)
        o = next(f);
    assert_true(o->replay_paused);
    free(pg_sql(&mirror, "select pg_wal_replay_resume()"));
}

static void
test_commits_that_wait(void **state)
{
    struct fixture *f = *state;
    struct err e;
    struct db *d;
    assert_int_equal(pg_connect(&d, &primary, &e), 0);
    free(pg_sql(&primary, "alter system set synchronous_standby_names = 'nobody'"));
    free(pg_sql(&primary, "select pg_reload_conf()"));
    set(f, &primary);
    const struct observation *o = next(f);
    while (strcmp(o->sync_names, "nobody") != 0)
        o = next(f);
    assert_int_equal(o->waiting, 0);
    struct statement st = {.sql = "set synchronous_commit = on; insert into t values (1)"};
    /* The first ones may pass, until the checkpointer has seen the setting. */
    do {
        if (!db_send(d, &st, &e))
            next(f);
    } while (db_poll(d, NULL, 200, &e) > 0);
    int64_t deadline = clock_ms() + 20000;
    while (o->waiting == 0 && clock_ms() < deadline)
        o = next(f);
    assert_int_equal(o->waiting, 1);
    free(pg_sql(&primary, "alter system reset synchronous_standby_names"));
    free(pg_sql(&primary, "select pg_reload_conf()"));
    assert_int_equal(db_poll(d, NULL, 20000, &e), 1);
    db_close(d);
}

static void
test_killed(void **state)
{
    struct fixture *f = *state;
    retime(f, 5000, 2000, 60000);
    set(f, &primary);
    await(f, EVIDENCE_NONE);
    int64_t began = clock_ms();
    pg_signal(&primary, SIGKILL);
    const struct observation *o = next(f);
    assert_int_equal(o->evidence, EVIDENCE_RESET);
    assert_string_equal(o->sqlstate, "57P01");
    print_message("a killed postmaster was noticed after %d ms\n", (int)(o->at_ms - began));
    assert_true(o->at_ms - began < 1000);
    /* And asked again at once, not at the next interval. */
    o = next(f);
    assert_true(o->fresh);
    assert_int_equal(o->evidence, EVIDENCE_REFUSED);
    assert_true(o->at_ms - began < 1500);
}

static void
test_comes_back(void **state)
{
    struct fixture *f = *state;
    set(f, &primary);
    await(f, EVIDENCE_NONE);
    pg_signal(&primary, SIGKILL);
    await(f, EVIDENCE_REFUSED);
    await(f, EVIDENCE_REFUSED);
    pg_start(&primary);
    assert_true(await(f, EVIDENCE_NONE)->fresh);
}

static void
test_hung_postmaster(void **state)
{
    struct fixture *f = *state;
    retime(f, 50, 300, 400);
    set(f, &primary);
    await(f, EVIDENCE_NONE);
    pg_signal(&primary, SIGSTOP);
    const struct observation *o = await(f, EVIDENCE_NO_NEW_SESSION);
    assert_true(o->fresh);
    assert_in_range(o->took_ms, 290, 3000);
    int64_t last = o->at_ms;
    /* The standing session goes on, and the next fresh one is tried without the long pause. */
    o = next(f);
    assert_int_equal(o->evidence, EVIDENCE_NONE);
    assert_false(o->fresh);
    o = await(f, EVIDENCE_NO_NEW_SESSION);
    assert_true(o->at_ms - last < 2000);
    pg_signal(&primary, SIGCONT);
    do
        o = await(f, EVIDENCE_NONE);
    while (!o->fresh);
}

/* The sessions that were given up stay in the socket's queue; when it is full a new one fails at once. */
static void
test_hung_postmaster_with_a_full_queue(void **state)
{
    struct fixture *f = *state;
    int held[4096], n = 0;
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    snprintf(to.sun_path, sizeof(to.sun_path), "%.80s/.s.PGSQL.%s", primary.dir, primary.port);
    retime(f, 50, 300, 400);
    set(f, &primary);
    await(f, EVIDENCE_NONE);
    pg_signal(&primary, SIGSTOP);
    do
        held[n] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    while (connect(held[n++], (struct sockaddr *)&to, sizeof(to)) == 0 && n < 4096);
    assert_int_equal(errno, EAGAIN);
    const struct observation *o = await(f, EVIDENCE_NO_NEW_SESSION);
    while (o->took_ms >= 290)
        o = await(f, EVIDENCE_NO_NEW_SESSION);
    for (int i = 0; i < 10; i++) {
        o = next(f);
        assert_true(o->evidence == EVIDENCE_NONE || o->evidence == EVIDENCE_NO_NEW_SESSION);
    }
    while (n > 0)
        close(held[--n]);
    pg_signal(&primary, SIGCONT);
    do
        o = await(f, EVIDENCE_NONE);
    while (!o->fresh);
}

static void
test_hung_server(void **state)
{
    struct fixture *f = *state;
    retime(f, 50, 300, 400);
    set(f, &primary);
    await(f, EVIDENCE_NONE);
    pg_signal_all(&primary, SIGSTOP);
    const struct observation *o = await(f, EVIDENCE_TIMEOUT);
    for (int i = 0; i < 4; i++) {
        o = next(f);
        assert_int_equal(o->evidence, EVIDENCE_TIMEOUT);
        assert_in_range(o->took_ms, 290, 3000);
    }
    pg_signal_all(&primary, SIGCONT);
    await(f, EVIDENCE_NONE);
}

static void
test_who_is_there(void **state)
{
    struct fixture *f = *state;
    set_at(f, primary.dir, primary.port, NULL, "123456");
    const struct observation *o = next(f);
    assert_int_equal(o->evidence, EVIDENCE_WRONG_SYSTEM);
    assert_non_null(strstr(o->message, "123456"));
    set_at(f, "127.0.0.1", primary.port, "wrong", sysid);
    o = await(f, EVIDENCE_AUTHENTICATION);
    assert_string_equal(o->sqlstate, "28P01");
    set_at(f, "127.0.0.1", primary.port, NULL, sysid);
    await(f, EVIDENCE_AUTHENTICATION);
    set_at(f, "127.0.0.1", primary.port, "moon", sysid);
    await(f, EVIDENCE_NONE);
    set_at(f, "127.0.0.1", "1", "moon", sysid);
    await(f, EVIDENCE_REFUSED);
    set_at(f, "/nonexistent", primary.port, NULL, sysid);
    await(f, EVIDENCE_REFUSED);
    set_at(f, "host.invalid", primary.port, NULL, sysid);
    await(f, EVIDENCE_UNRESOLVED);
}

static void
test_too_many(void **state)
{
    struct fixture *f = *state;
    struct db *held[32] = {NULL};
    struct err e;
    int n = 0;
    while (n < 32 && pg_connect(&held[n], &primary, &e) == 0)
        n++;
    set(f, &primary);
    const struct observation *o = next(f);
    assert_int_equal(o->evidence, EVIDENCE_TOO_MANY);
    assert_string_equal(o->sqlstate, "53300");
    for (int i = 0; i < n; i++)
        db_close(held[i]);
    await(f, EVIDENCE_NONE);
}

static void
test_terminated_session(void **state)
{
    struct fixture *f = *state;
    retime(f, 10000, 2000, 60000);
    set(f, &primary);
    await(f, EVIDENCE_NONE);
    free(pg_sql(&primary, "select count(pg_terminate_backend(pid)) from pg_stat_activity "
                          "where usename = 'moonrise' and backend_type = 'client backend'"));
    assert_int_equal(next(f)->evidence, EVIDENCE_RESET);
    assert_int_equal(next(f)->evidence, EVIDENCE_NONE);
}

static void
test_drop_in_callback_and_now(void **state)
{
    struct fixture *f = *state;
    retime(f, 60000, 2000, 60000);
    set(f, &primary);
    assert_true(next(f)->fresh);
    prober_now(f->p, 1); /* the standing session and a fresh one */
    const struct observation *o = next(f);
    assert_int_equal(o->evidence, EVIDENCE_NONE);
    bool fresh = o->fresh;
    assert_true(next(f)->fresh != fresh);
    f->dropped = 1;
    prober_now(f->p, 1);
    next(f);
    int count = f->count;
    loop_run(f->l); /* nothing is left */
    assert_int_equal(f->count, count);
    set(f, &primary);
    f->dropped = 1;
    pg_signal(&primary, SIGKILL);
    loop_run(f->l);
    prober_drop(f->p, 1);
    prober_now(f->p, 1);
    set(f, &primary);
    f->dropped = -1;
    loop_run(f->l);
    assert_null(f->p);
}

/* What is under way was begun before, and may know nothing of what it is asked again for. */
static void
test_now_while_it_is_being_asked(void **state)
{
    struct fixture *f = *state;
    retime(f, 60000, 2000, 60000);
    set(f, &primary);
    int64_t wished = clock_ms();
    while (clock_ms() == wished)
        continue;
    wished = clock_ms();
    prober_now(f->p, 1);
    assert_true(next(f)->fresh);
    const struct observation *o;
    do
        o = next(f);
    while (!o->fresh);
    assert_int_equal(o->evidence, EVIDENCE_NONE);
    assert_true(o->at_ms - o->took_ms >= wished);
}

static void
test_same_target_keeps_its_session(void **state)
{
    struct fixture *f = *state;
    set(f, &primary);
    next(f);
    next(f);
    set_at(f, primary.dir, primary.port, NULL, NULL);
    assert_false(next(f)->fresh);
    set_at(f, primary.dir, primary.port, NULL, "5");
    assert_int_equal(await(f, EVIDENCE_WRONG_SYSTEM)->fresh, false);
}

static void
test_cost(void **state)
{
    struct fixture *f = *state;
    struct rusage before, after;
    retime(f, 10, 2000, 60000);
    set(f, &primary);
    await(f, EVIDENCE_NONE);
    getrusage(RUSAGE_SELF, &before);
    int n = f->count;
    until_count(f->l, &f->count, n + 200, 60000, "200 answers");
    getrusage(RUSAGE_SELF, &after);
    double us = (double)(after.ru_utime.tv_sec - before.ru_utime.tv_sec) * 1e6 +
                (double)(after.ru_utime.tv_usec - before.ru_utime.tv_usec) +
                (double)(after.ru_stime.tv_sec - before.ru_stime.tv_sec) * 1e6 +
                (double)(after.ru_stime.tv_usec - before.ru_stime.tv_usec);
    print_message("a probe costs %.0f us here\n", us / 200);
    /* Eight instances a second: at most half a per cent of a core. */
    assert_true(us / 200 * 8 < 5000);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_primary_answers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pair, setup, teardown),
        cmocka_unit_test_setup_teardown(test_commits_that_wait, setup, teardown),
        cmocka_unit_test_setup_teardown(test_killed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_comes_back, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hung_postmaster, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hung_postmaster_with_a_full_queue, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hung_server, setup, teardown),
        cmocka_unit_test_setup_teardown(test_who_is_there, setup, teardown),
        cmocka_unit_test_setup_teardown(test_too_many, setup, teardown),
        cmocka_unit_test_setup_teardown(test_terminated_session, setup, teardown),
        cmocka_unit_test_setup_teardown(test_drop_in_callback_and_now, setup, teardown),
        cmocka_unit_test_setup_teardown(test_now_while_it_is_being_asked, setup, teardown),
        cmocka_unit_test_setup_teardown(test_same_target_keeps_its_session, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cost, setup, teardown),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
