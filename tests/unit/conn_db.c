#include "../lib/pg.h"

#include <errno.h>
#include <pthread.h>

static struct pg server;

static int
group_setup(void **state)
{
    return pg_setup(state, &server, NULL);
}

static int
setup(void **state)
{
    struct err e;
    struct db *d;
    if (server.pid == 0)
        pg_start(&server);
    if (pg_connect(&d, &server, &e) != 0)
        fail_msg("%s", e.message);
    *state = d;
    return 0;
}

static int
teardown(void **state)
{
    db_close(*state);
    return 0;
}

static void
test_query(void **state)
{
    struct db *d = *state;
    struct err e;
    const struct result *r;
    const char *params[] = {"7", NULL};
    struct statement st = {
        .sql = "select $1::int + 1 as a, $2::text as b", .nparams = 2, .params = params};
    assert_int_equal(db_query(d, &r, &st, clock_ms() + 5000, &e), 0);
    assert_int_equal(result_rows(r), 1);
    assert_int_equal(result_columns(r), 2);
    assert_string_equal(result_name(r, 0), "a");
    assert_int_equal(result_kind(r, 0), RESULT_INTEGER);
    assert_string_equal(result_get(r, 0, 0), "8");
    assert_null(result_get(r, 0, 1));
    assert_string_equal(result_command(r), "SELECT 1");
    assert_int_equal(db_query(d, NULL, &(struct statement){.sql = "bad"}, clock_ms() + 5000, &e),
                     ERR_SQL);
    assert_string_equal(e.sqlstate, "42601");
    assert_int_equal(
        db_query(d, &r, &(struct statement){.sql = "select 1"}, clock_ms() + 5000, NULL), 0);
    assert_true(db_backend_pid(d) > 0);
    assert_true(db_server_version(d) >= 130000);
}

static void
active_backend(int pid, const char *wanted)
{
    char *sql = mem_printf("select count(*) from pg_stat_activity where pid = %d and state = "
                           "'active'",
                           pid);
    int64_t deadline = clock_ms() + 5000;
    char *seen = pg_sql(&server, sql);
    while (strcmp(seen, wanted) != 0 && clock_ms() < deadline) {
        free(seen);
        seen = pg_sql(&server, sql);
    }
    assert_string_equal(seen, wanted);
    free(seen);
    free(sql);
}

static void
test_deadline_cancels(void **state)
{
    struct db *d = *state;
    struct err e;
    int pid = db_backend_pid(d);
    int64_t began = clock_ms();
    struct statement st = {.sql = "select pg_sleep(60)"};
    assert_int_equal(db_query(d, NULL, &st, clock_ms() + 200, &e), ERR_TIMEOUT);
    assert_in_range(clock_ms() - began, 199, 3000);
    active_backend(pid, "0");
    st.sql = "select 1";
    assert_int_equal(db_query(d, NULL, &st, clock_ms() + 200, &e), ERR_TIMEOUT);
}

static void *
raise_flag(void *arg)
{
    moment_pass(100000);
    atomic_store((atomic_bool *)arg, true);
    return NULL;
}

static void
test_cancel_flag(void **state)
{
    atomic_bool cancel = false;
    const char *keywords[] = {"host", "port", "user", "dbname", NULL};
    const char *values[] = {server.dir, server.port, "tester", "postgres", NULL};
    struct conn_params params = {keywords, values};
    struct db *d;
    struct err e;
    pthread_t thread;
    (void)state;
    assert_int_equal(db_open(&d, &params, clock_ms() + 5000, &cancel, &e), 0);
    int pid = db_backend_pid(d);
    int64_t began = clock_ms();
    assert_int_equal(pthread_create(&thread, NULL, raise_flag, &cancel), 0);
    struct statement st = {.sql = "select pg_sleep(60)"};
    assert_int_equal(db_query(d, NULL, &st, clock_ms() + 30000, &e), ERR_CANCELLED);
    assert_true(clock_ms() - began < 3000);
    pthread_join(thread, NULL);
    db_close(d);
    active_backend(pid, "0");
    assert_int_equal(db_open(&d, &params, clock_ms() + 5000, &cancel, &e), ERR_CANCELLED);
    assert_null(d);
}

static void
test_send_and_poll(void **state)
{
    struct db *d = *state;
    struct err e;
    const struct result *r;
    struct statement st = {.sql = "select 5 from pg_sleep(0.3)"};
    assert_int_equal(db_send(d, &st, &e), 0);
    assert_int_equal(db_poll(d, &r, 0, &e), 0);
    assert_int_equal(db_poll(d, &r, 20, &e), 0);
    assert_int_equal(db_poll(d, &r, 10000, &e), 1);
    assert_string_equal(result_get(r, 0, 0), "5");
    st.sql = "select pg_sleep(60)";
    assert_int_equal(db_send(d, &st, &e), 0);
    assert_int_equal(db_poll(d, &r, 50, &e), 0);
    db_cancel(d);
    assert_int_equal(db_poll(d, &r, 10000, &e), ERR_SQL);
    assert_string_equal(e.sqlstate, "57014");
    st.sql = "select 6";
    assert_int_equal(db_query(d, &r, &st, clock_ms() + 5000, &e), 0);
    assert_string_equal(result_get(r, 0, 0), "6");
}

static void
test_hung_postmaster(void **state)
{
    struct db *d = *state;
    struct err e;
    struct db *other;
    pg_signal(&server, SIGSTOP);
    const char *keywords[] = {"host", "port", "user", "dbname", NULL};
    const char *values[] = {server.dir, server.port, "tester", "postgres", NULL};
    struct conn_params params = {keywords, values};
    int64_t began = clock_ms();
    assert_int_equal(db_open(&other, &params, clock_ms() + 300, NULL, &e), ERR_TIMEOUT);
    assert_in_range(clock_ms() - began, 299, 2000);
    /* Also a cancel that nobody takes does not hold us up. */
    began = clock_ms();
    struct statement st = {.sql = "select pg_sleep(60)"};
    assert_int_equal(db_query(d, NULL, &st, clock_ms() + 200, &e), ERR_TIMEOUT);
    assert_true(clock_ms() - began < 3000);
    pg_signal(&server, SIGCONT);
}

static void
test_server_gone(void **state)
{
    struct db *d = *state;
    struct err e;
    struct statement st = {.sql = "select pg_sleep(60)"};
    assert_int_equal(db_send(d, &st, &e), 0);
    kill(db_backend_pid(d), SIGKILL);
    assert_int_equal(db_poll(d, NULL, 10000, &e), ERR_CONNECT);
    assert_int_equal(e.sys_errno, ECONNRESET);
    assert_int_equal(db_send(d, &st, &e), ERR_CONNECT);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_query, setup, teardown),
        cmocka_unit_test_setup_teardown(test_deadline_cancels, setup, teardown),
        cmocka_unit_test(test_cancel_flag),
        cmocka_unit_test_setup_teardown(test_send_and_poll, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hung_postmaster, setup, teardown),
        cmocka_unit_test_setup_teardown(test_server_gone, setup, teardown),
    };
    return cmocka_run_group_tests(tests, group_setup, pg_teardown);
}
