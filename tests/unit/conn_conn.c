#include "../lib/pg.h"

#include "moonrise/conn/conn.h"

#include <errno.h>
#include <sys/resource.h>

struct fixture {
    struct loop *l;
    struct conn *c;
    int opened, answered, lost;
    struct err e;
    char *text;
    int rows;
    bool free_in_callback;
    const char *next_sql;
};

static struct pg server; /* one for the file: initdb takes a second */

static int
group_setup(void **state)
{
    return pg_setup(state, &server, NULL);
}

static int
setup(void **state)
{
    struct fixture *f = mem_zalloc(sizeof(*f));
    assert_int_equal(loop_new(&f->l, NULL), 0);
    *state = f;
    if (server.pid == 0)
        pg_start(&server);
    return 0;
}

static int
teardown(void **state)
{
    struct fixture *f = *state;
    conn_free(f->c);
    assert_int_equal(loop_handles(f->l), 0);
    loop_free(f->l);
    free(f->text);
    free(f);
    return 0;
}

static void
keep_error(struct fixture *f, const struct err *e)
{
    f->e = (struct err){0};
    if (e)
        f->e = *e;
    if (f->free_in_callback) {
        conn_free(f->c);
        f->c = NULL;
    }
}

static void
opened(void *arg, const struct err *e)
{
    struct fixture *f = arg;
    f->opened++;
    keep_error(f, e);
}

static void
lost(void *arg, const struct err *e)
{
    struct fixture *f = arg;
    f->lost++;
    keep_error(f, e);
}

static void
open_at(struct fixture *f, const char *host, const char *port, const char *password, int64_t ms)
{
    const char *keywords[] = {"host", "port", "user", "dbname", "password", NULL};
    const char *values[] = {host, port, "tester", "postgres", password, NULL};
    struct conn_spec spec = {
        .params = {keywords, values}, .timeout_ms = ms, .done = opened, .arg = f};
    f->opened = 0;
    conn_open(&f->c, f->l, &spec);
    assert_int_equal(f->opened, 0); /* never out of the call itself */
    until_count(f->l, &f->opened, 1, 20000, "the connection");
}

static void
open_session(struct fixture *f)
{
    open_at(f, server.dir, server.port, NULL, 10000);
    if (f->e.code != 0)
        fail_msg("%s", f->e.message);
    assert_true(conn_is_open(f->c));
}

static void
answered(void *arg, const struct result *r, const struct err *e)
{
    struct fixture *f = arg;
    f->answered++;
    free(f->text);
    f->text = NULL;
    f->rows = 0;
    if (r) {
        f->rows = result_rows(r);
        f->text = f->rows && result_get(r, 0, 0) ? mem_strdup(result_get(r, 0, 0)) : NULL;
    }
    if (f->next_sql) {
        struct statement st = {.sql = f->next_sql};
        f->next_sql = NULL;
        conn_query(f->c, &st, 10000, answered, f);
    }
    keep_error(f, e);
    /* The result outlives its connection until the callback returns. */
    if (r && f->rows && f->text)
        assert_string_equal(result_get(r, 0, 0), f->text);
}

static void
query(struct fixture *f, const struct statement *st, int64_t ms)
{
    f->answered = 0;
    conn_query(f->c, st, ms, answered, f);
    assert_int_equal(f->answered, 0);
    until_count(f->l, &f->answered, 1, 20000, st->sql);
}

static void
sql(struct fixture *f, const char *text)
{
    query(f, &(struct statement){.sql = text}, 10000);
}

static void
test_query(void **state)
{
    struct fixture *f = *state;
    open_session(f);
    const char *params[] = {"grün", NULL};
    query(f,
          &(struct statement){
              .sql = "select $1::text || coalesce($2, '!')", .nparams = 2, .params = params},
          10000);
    assert_string_equal(f->text, "grün!");
    sql(f, "select 1; select 2 from generate_series(1,3)");
    assert_string_equal(f->text, "2");
    assert_int_equal(f->rows, 3);
    assert_true(conn_backend_pid(f->c) > 0);
    assert_true(conn_server_version(f->c) >= 130000);
}

static void
test_query_from_callback(void **state)
{
    struct fixture *f = *state;
    open_session(f);
    f->next_sql = "select 'second'";
    conn_query(f->c, &(struct statement){.sql = "select 'first'"}, 10000, answered, f);
    until_count(f->l, &f->answered, 2, 20000, "both answers");
    assert_string_equal(f->text, "second");
}

static void
test_large_both_ways(void **state)
{
    struct fixture *f = *state;
    size_t len = 20 << 20;
    char *big = mem_alloc(len + 1);
    memset(big, 'x', len);
    big[len] = '\0';
    open_session(f);
    const char *params[] = {big};
    query(f, &(struct statement){.sql = "select $1::text || 'y'", .nparams = 1, .params = params},
          60000);
    assert_int_equal(f->e.code, 0);
    assert_int_equal(strlen(f->text), len + 1);
    free(big);
}

static void
test_sql_error(void **state)
{
    struct fixture *f = *state;
    open_session(f);
    sql(f, "select 1/0");
    assert_int_equal(f->e.code, ERR_SQL);
    assert_string_equal(f->e.sqlstate, "22012");
    assert_string_equal(f->e.message, "ERROR: division by zero");
    sql(f, "do $$begin raise 'a' using detail = 'b', hint = 'c', errcode = 'MR001'; end$$");
    assert_string_equal(f->e.message, "ERROR: a (b)");
    assert_string_equal(f->e.hint, "c");
    assert_string_equal(f->e.sqlstate, "MR001");
    sql(f, "select 3");
    assert_string_equal(f->text, "3");
    sql(f, "");
    assert_int_equal(f->e.code, 0);
    sql(f, "copy (select 1) to stdout");
    assert_int_equal(f->e.code, ERR_ARGUMENT);
    assert_false(conn_is_open(f->c));
    sql(f, "select 1");
    assert_int_not_equal(f->e.code, 0);
}

static void
test_refused(void **state)
{
    struct fixture *f = *state;
    char port[12];
    pg_free_port(port, sizeof(port));
    open_at(f, "127.0.0.1", port, NULL, 5000);
    assert_int_equal(f->e.code, ERR_CONNECT);
    assert_int_equal(f->e.sys_errno, ECONNREFUSED);
    conn_free(f->c);
    open_at(f, server.dir, port, NULL, 5000);
    assert_int_equal(f->e.code, ERR_CONNECT);
    assert_int_equal(f->e.sys_errno, ENOENT);
    assert_false(conn_is_open(f->c));
}

/* libpq goes on to the next host on a new socket, which has the number of the old one. */
static void
test_second_of_two_hosts(void **state)
{
    struct fixture *f = *state;
    char port[12];
    pg_free_port(port, sizeof(port));
    char *ports = mem_printf("%s,%s,%s", port, port, server.port);
    open_at(f, "127.0.0.1,127.0.0.1,127.0.0.1", ports, "secret", 5000);
    free(ports);
    assert_int_equal(f->e.code, 0);
    sql(f, "select 1");
    assert_string_equal(f->text, "1");
}

static void
test_passwords(void **state)
{
    struct fixture *f = *state;
    open_at(f, "127.0.0.1", server.port, "secret", 5000);
    assert_int_equal(f->e.code, 0);
    conn_free(f->c);
    open_at(f, "127.0.0.1", server.port, "wrong", 5000);
    assert_int_equal(f->e.code, ERR_SQL);
    assert_string_equal(f->e.sqlstate, "28P01");
    conn_free(f->c);
    open_at(f, "127.0.0.1", server.port, NULL, 5000);
    assert_int_equal(f->e.code, ERR_CONNECT);
    assert_int_equal(f->e.sys_errno, EKEYREJECTED);
}

static void
test_postmaster_killed_is_noticed(void **state)
{
    struct fixture *f = *state;
    open_session(f);
    conn_on_lost(f->c, lost, f);
    loop_turn(f->l, false);
    assert_int_equal(f->lost, 0);
    int64_t began = clock_ms();
    pg_signal(&server, SIGKILL);
    until_count(f->l, &f->lost, 1, 5000, "the loss");
    assert_true(clock_ms() - began < 1000);
    print_message("noticed after %d ms: %s\n", (int)(clock_ms() - began), f->e.message);
    assert_int_equal(f->e.code, ERR_CONNECT);
    assert_false(conn_is_open(f->c));
}

/* Ends the session on the server. */
static void
terminate(struct fixture *f)
{
    char *text = mem_printf("select pg_terminate_backend(%d, 5000)", conn_backend_pid(f->c));
    free(pg_sql(&server, text));
    free(text);
}

static void
test_backend_killed_while_busy(void **state)
{
    struct fixture *f = *state;
    open_session(f);
    conn_query(f->c, &(struct statement){.sql = "select pg_sleep(60)"}, 20000, answered, f);
    terminate(f);
    until_count(f->l, &f->answered, 1, 5000, "the failure");
    assert_int_equal(f->e.code, ERR_SQL);
    assert_string_equal(f->e.sqlstate, "57P01");
    assert_false(conn_is_open(f->c));
}

static void
test_terminated_while_idle_says_why(void **state)
{
    struct fixture *f = *state;
    open_session(f);
    conn_on_lost(f->c, lost, f);
    f->free_in_callback = true;
    terminate(f);
    until_count(f->l, &f->lost, 1, 5000, "the loss");
    assert_int_equal(f->e.code, ERR_CONNECT);
    assert_string_equal(f->e.sqlstate, "57P01");
}

/* The postmaster does not answer, what it has started does. */
static void
test_hung_postmaster(void **state)
{
    struct fixture *f = *state;
    open_session(f);
    struct conn *standing = f->c;
    pg_signal(&server, SIGSTOP);
    int64_t began = clock_ms();
    open_at(f, server.dir, server.port, NULL, 300);
    assert_int_equal(f->e.code, ERR_TIMEOUT);
    assert_in_range(clock_ms() - began, 290, 3000);
    conn_free(f->c);
    f->c = standing;
    sql(f, "select 'alive'");
    assert_string_equal(f->text, "alive");
    query(f, &(struct statement){.sql = "select pg_sleep(60)"}, 200);
    assert_int_equal(f->e.code, ERR_TIMEOUT);
    pg_signal(&server, SIGCONT);
}

static void
test_timeout_cancels_on_the_server(void **state)
{
    struct fixture *f = *state;
    open_session(f);
    char *text = mem_printf("select count(*) from pg_stat_activity where pid = %d and "
                            "state = 'active'",
                            conn_backend_pid(f->c));
    query(f, &(struct statement){.sql = "select pg_sleep(60)"}, 200);
    assert_int_equal(f->e.code, ERR_TIMEOUT);
    assert_false(conn_is_open(f->c));
    int64_t deadline = clock_ms() + 5000;
    char *active = pg_sql(&server, text);
    while (strcmp(active, "0") != 0 && clock_ms() < deadline) {
        free(active);
        active = pg_sql(&server, text);
    }
    assert_string_equal(active, "0");
    free(active);
    free(text);
    sql(f, "select 1");
    assert_int_equal(f->e.code, ERR_TIMEOUT); /* why the session is broken */
}

static void
test_lost_while_nobody_listened(void **state)
{
    struct fixture *f = *state;
    open_session(f);
    terminate(f);
    while (conn_is_open(f->c))
        loop_turn(f->l, true);
    conn_on_lost(f->c, lost, f);
    assert_int_equal(f->lost, 0);
    until_count(f->l, &f->lost, 1, 5000, "the loss");
}

static void
test_too_many(void **state)
{
    struct fixture *f = *state;
    struct db *held[32] = {NULL};
    struct err e = {0};
    int n = 0;
    while (n < 32 && pg_connect(&held[n], &server, &e) == 0)
        n++;
    open_at(f, "127.0.0.1", server.port, "secret", 5000);
    for (int i = 0; i < n; i++)
        db_close(held[i]);
    assert_int_equal(f->e.code, ERR_SQL);
    assert_string_equal(f->e.sqlstate, "53300");
}

/* It says so in words of before SQLSTATEs, and where TLS was asked for not even that. */
static void
test_no_fork(void **state)
{
    const char *hosts[] = {server.dir, "127.0.0.1"};
    struct rlimit was, none;
    assert_int_equal(prlimit(server.pid, RLIMIT_NPROC, NULL, &was), 0);
    none = (struct rlimit){.rlim_cur = 1, .rlim_max = was.rlim_max};
    assert_int_equal(prlimit(server.pid, RLIMIT_NPROC, &none, NULL), 0);
    for (int i = 0; i < 2; i++) {
        struct fixture *f = *state;
        open_at(f, hosts[i], server.port, "secret", 5000);
        assert_int_equal(f->e.code, ERR_SQL);
        assert_string_equal(f->e.sqlstate, "53000");
        conn_free(f->c);
        f->c = NULL;
    }
    prlimit(server.pid, RLIMIT_NPROC, &was, NULL);
}

static void
test_free_while_connecting_and_busy(void **state)
{
    struct fixture *f = *state;
    const char *keywords[] = {"host", "port", "user", "dbname", NULL};
    const char *values[] = {server.dir, server.port, "tester", "postgres", NULL};
    struct conn_spec spec = {
        .params = {keywords, values}, .timeout_ms = 5000, .done = opened, .arg = f};
    conn_open(&f->c, f->l, &spec);
    conn_free(f->c);
    conn_open(&f->c, f->l, &spec);
    loop_turn(f->l, true);
    conn_free(f->c);
    assert_int_equal(f->opened, 0);
    open_session(f);
    conn_query(f->c, &(struct statement){.sql = "select pg_sleep(0.2)"}, 5000, answered, f);
    loop_turn(f->l, false);
    conn_free(f->c);
    f->c = NULL;
    f->free_in_callback = true;
    open_at(f, server.dir, server.port, NULL, 5000);
    assert_null(f->c);
    assert_int_equal(f->answered, 0);
}

static void
test_connection_string(void **state)
{
    struct conn_params params;
    struct err e;
    (void)state;
    assert_int_equal(conn_params_parse(&params, "host=a,b port=5 target_session_attrs=any", &e), 0);
    struct conn_params copy;
    conn_params_copy(&copy, &params);
    conn_params_free(&params);
    bool seen = false;
    for (int i = 0; copy.keywords[i]; i++)
        seen = seen || (strcmp(copy.keywords[i], "host") == 0 && !strcmp(copy.values[i], "a,b"));
    assert_true(seen);
    conn_params_free(&copy);
    assert_int_equal(conn_params_parse(&params, "host=a nonsense", &e), ERR_ARGUMENT);
}

static void
test_environment(void **state)
{
    struct fixture *f = *state;
    setenv("PGDATABASE", "nonexistent", 1);
    setenv("PGOPTIONS", "-c nonsense=1", 1);
    setenv("PGSERVICE", "nonexistent", 1);
    conn_clear_environment();
    assert_null(getenv("PGOPTIONS"));
    open_session(f);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_query, setup, teardown),
        cmocka_unit_test_setup_teardown(test_query_from_callback, setup, teardown),
        cmocka_unit_test_setup_teardown(test_large_both_ways, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sql_error, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_second_of_two_hosts, setup, teardown),
        cmocka_unit_test_setup_teardown(test_passwords, setup, teardown),
        cmocka_unit_test_setup_teardown(test_postmaster_killed_is_noticed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_backend_killed_while_busy, setup, teardown),
        cmocka_unit_test_setup_teardown(test_terminated_while_idle_says_why, setup, teardown),
        cmocka_unit_test_setup_teardown(test_hung_postmaster, setup, teardown),
        cmocka_unit_test_setup_teardown(test_timeout_cancels_on_the_server, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lost_while_nobody_listened, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_fork, setup, teardown),
        cmocka_unit_test_setup_teardown(test_too_many, setup, teardown),
        cmocka_unit_test_setup_teardown(test_free_while_connecting_and_busy, setup, teardown),
        cmocka_unit_test(test_connection_string),
        cmocka_unit_test_setup_teardown(test_environment, setup, teardown),
    };
    return cmocka_run_group_tests(tests, group_setup, pg_teardown);
}
