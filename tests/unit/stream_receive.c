/* The WAL receiver on a real server: what it writes is what the server has, and the server learns how far it
 * is; names, slots and servers that it refuses; WAL that is gone, a server that is silent. */
#include "../lib/pg.h"

#include "moonrise/base/io.h"
#include "moonrise/stream/stream.h"

#include <pthread.h>

static struct pg server;

struct fixture {
    char *dir;
    struct stream_spec spec;
    struct stream_result result;
    const char *keywords[6], *values[6];
    atomic_bool cancel;
    pthread_t thread;
    int rc;
    struct err e;
    atomic_int begun, finished;
};

static void
heard(void *arg, const struct stream_event *event)
{
    struct fixture *f = arg;
    atomic_fetch_add(&f->begun, event->kind == STREAM_BEGINS);
    atomic_fetch_add(&f->finished, event->kind == STREAM_FINISHED);
}

static int
group_setup(void **state)
{
    pg_setup(state, &server,
             "max_wal_senders = 4\nmax_replication_slots = 4\nautovacuum = off\n"
             "wal_keep_size = 1GB\nmin_wal_size = 32MB\nmax_wal_size = 32MB\n"
             "synchronous_commit = local\n");
    free(pg_sql(&server, "create table t (x text)"));
    return 0;
}

static int
setup(void **state)
{
    struct fixture *f = mem_zalloc(sizeof(*f));
    const char *keywords[] = {"host", "port", "user", "application_name", NULL};
    const char *values[] = {server.dir, server.port, "tester", "archive", NULL};
    memcpy(f->keywords, keywords, sizeof(keywords));
    memcpy(f->values, values, sizeof(values));
    f->dir = tmpdir_make();
    f->spec = (struct stream_spec){.params = {f->keywords, f->values},
                                   .directory = f->dir,
                                   .sync = true,
                                   .connect_ms = 20000,
                                   .status_ms = 10000,
                                   .silence_ms = 30000,
                                   .cancel = &f->cancel,
                                   .said = heard,
                                   .arg = f};
    *state = f;
    return 0;
}

static int
teardown(void **state)
{
    struct fixture *f = *state;
    free(pg_sql(&server, "select pg_drop_replication_slot(slot_name) from pg_replication_slots"));
    tmpdir_remove(f->dir);
    free(f);
    return 0;
}

static int
receive(struct fixture *f)
{
    memset(&f->e, 0, sizeof(f->e));
    f->rc = stream_receive(&f->result, &f->spec, &f->e);
    return f->rc;
}

static void *
receive_thread(void *arg)
{
    receive(arg);
    return NULL;
}

static void
begin(struct fixture *f)
{
    atomic_store(&f->cancel, false);
    assert_int_equal(pthread_create(&f->thread, NULL, receive_thread, f), 0);
}

static int
end(struct fixture *f)
{
    pthread_join(f->thread, NULL);
    return f->rc;
}

static void
sql_until(const char *sql, const char *wanted)
{
    int64_t deadline = clock_ms() + PG_DEADLINE_MS;
    char *got = pg_sql(&server, sql);
    while (strcmp(got ? got : "", wanted) != 0) {
        if (clock_ms() > deadline)
            fail_msg("%s: %s", sql, got ? got : "no row");
        free(got);
        moment_pass(10000);
        got = pg_sql(&server, sql);
    }
    free(got);
}

static void
write_segments(int count)
{
    for (int i = 0; i < count; i++)
        free(pg_sql(&server, "insert into t select repeat('y', 90) from generate_series(1, 3000);"
                             "select pg_switch_wal()"));
}

static lsn_t
flushed_lsn(void)
{
    lsn_t lsn;
    char *text = pg_sql(&server, "select pg_current_wal_flush_lsn()");
    assert_int_equal(lsn_parse(&lsn, text, NULL), 0);
    free(text);
    return lsn;
}

/* The segments that are whole are the server's, byte by byte; how many there are. */
static int
same_segments(const struct fixture *f)
{
    char *command = mem_printf("cd $DIR; n=0; for f in $(ls | grep -v partial); do "
                               "cmp $f %s/pg_wal/$f; n=$((n+1)); done; echo $n",
                               server.dir);
    char *out = tmpdir_shell(f->dir, command);
    int n = atoi(out);
    free(out);
    free(command);
    return n;
}

static void
test_receive(void **state)
{
    struct fixture *f = *state;
    free(pg_sql(&server, "select pg_create_physical_replication_slot('s', true)"));
    f->spec.slot = "s";
    write_segments(2);
    f->spec.end_lsn = flushed_lsn() - 1;
    assert_int_equal(receive(f), 0);
    assert_true(f->result.streamed);
    assert_true(f->result.lsn > f->spec.end_lsn);
    int whole = atomic_load(&f->finished);
    assert_true(whole >= 2);
    assert_int_equal(same_segments(f), whole);
    char *sql = mem_printf("select restart_lsn > pg_current_wal_flush_lsn() - 16777216 "
                           "from pg_replication_slots where slot_name = 's' and not active");
    sql_until(sql, "t");
    free(sql);
    /* It goes on where it was; what an interruption leaves behind is durable and told. */
    f->spec.end_lsn = 0;
    begin(f);
    sql_until("select count(*) from pg_stat_replication where state = 'streaming'", "1");
    write_segments(1);
    sql_until("select write_lsn >= pg_current_wal_flush_lsn() from pg_stat_replication", "t");
    atomic_store(&f->cancel, true);
    assert_int_equal(end(f), ERR_CANCELLED);
    assert_int_equal(same_segments(f), whole + 1);
    sql_until("select restart_lsn = pg_current_wal_flush_lsn() from pg_replication_slots", "t");
}

/* Without a slot nothing is told to be durable, unless that was asked for. */
static void
test_positions(void **state)
{
    struct fixture *f = *state;
    for (int synchronous = 0; synchronous < 2; synchronous++) {
        f->spec.synchronous = synchronous;
        f->spec.status_ms = 50;
        begin(f);
        sql_until("select count(*) from pg_stat_replication where state = 'streaming'", "1");
        free(pg_sql(&server, "insert into t values ('a')"));
        sql_until("select write_lsn >= pg_current_wal_flush_lsn() from pg_stat_replication", "t");
        sql_until(synchronous ? "select flush_lsn >= pg_current_wal_flush_lsn() from "
                                "pg_stat_replication"
                              : "select flush_lsn is null from pg_stat_replication",
                  "t");
        atomic_store(&f->cancel, true);
        assert_int_equal(end(f), ERR_CANCELLED);
        sql_until("select count(*) from pg_stat_replication", "0");
    }
}

static void
test_refused(void **state)
{
    struct fixture *f = *state;
    struct {
        const char *name, *slot, *names, *said;
    } cases[] = {{"mr_0_3", NULL, "", "is a mirror's"},
                 {"MR_0_3_17", NULL, "", "is a mirror's"},
                 {"archive", "mr_slot_3", "", "is a mirror's"},
                 {"archive", NULL, "*", "in its mirror's place"},
                 {"archive", NULL, "FIRST 1 (\"Archive\")", "in its mirror's place"}};
    f->spec.never_synchronous = true;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char *sql = mem_printf("alter system set synchronous_standby_names = '%s'", cases[i].names);
        free(pg_sql(&server, sql));
        free(sql);
        free(pg_sql(&server, "select pg_reload_conf()"));
        sql = mem_printf("%s", cases[i].names);
        sql_until("show synchronous_standby_names", sql);
        free(sql);
        f->values[3] = cases[i].name;
        f->spec.slot = cases[i].slot;
        assert_int_equal(receive(f), ERR_REFUSED);
        if (!strstr(f->e.message, cases[i].said))
            fail_msg("%s: %s", cases[i].name, f->e.message);
    }
    free(pg_sql(&server, "alter system reset synchronous_standby_names"));
    free(pg_sql(&server, "select pg_reload_conf()"));
    /* The server's own word counts, wherever the name came from. */
    f->spec.slot = NULL;
    f->keywords[3] = "options";
    f->values[3] = "-c application_name=mr_0_3";
    f->spec.end_lsn = 1;
    assert_int_equal(receive(f), 0);
    f->spec.system_identifier = 5;
    assert_int_equal(receive(f), ERR_REFUSED);
}

static void
test_no_slot(void **state)
{
    struct fixture *f = *state;
    f->spec.slot = "nobody's";
    assert_int_equal(receive(f), ERR_NOTFOUND);
    assert_non_null(strstr(f->e.message, "does not exist"));
    f->spec.directory = "/nowhere";
    assert_int_equal(receive(f), ERR_NOTFOUND);
}

static void
test_one_receiver(void **state)
{
    struct fixture *f = *state;
    begin(f);
    sql_until("select count(*) from pg_stat_replication where state = 'streaming'", "1");
    struct stream_result result;
    struct err e;
    assert_int_equal(stream_receive(&result, &f->spec, &e), ERR_BUSY);
    atomic_store(&f->cancel, true);
    assert_int_equal(end(f), ERR_CANCELLED);
}

static void
test_removed(void **state)
{
    struct fixture *f = *state;
    free(pg_sql(&server, "insert into t values ('c')"));
    f->spec.end_lsn = flushed_lsn() - 1;
    assert_int_equal(receive(f), 0);
    assert_true(f->result.streamed);
    free(pg_sql(&server, "alter system set wal_keep_size = 0"));
    free(pg_sql(&server, "select pg_reload_conf()"));
    sql_until("show wal_keep_size", "0");
    write_segments(5);
    free(pg_sql(&server, "checkpoint"));
    write_segments(1);
    free(pg_sql(&server, "checkpoint"));
    f->spec.end_lsn = 0;
    assert_int_equal(receive(f), ERR_NOTFOUND);
    assert_non_null(strstr(f->e.message, "has removed the WAL that comes next"));
    assert_non_null(strstr(f->e.hint, "base backup"));
}

static void
test_silence(void **state)
{
    struct fixture *f = *state;
    f->spec.silence_ms = 1000;
    begin(f);
    sql_until("select count(*) from pg_stat_replication where state = 'streaming'", "1");
    /* A server that has nothing to send answers when it is asked. */
    sql_until("select reply_time > backend_start + interval '1500 ms' from pg_stat_replication",
              "t");
    pg_signal_all(&server, SIGSTOP);
    int rc = end(f);
    pg_signal_all(&server, SIGCONT);
    assert_int_equal(rc, ERR_TIMEOUT);
    assert_non_null(strstr(f->e.message, "has said nothing for 1 s"));
}

/* A server that is stopped waits until what it sent is durable here, and not in vain; it says that it goes. */
static void
test_shutdown(void **state)
{
    struct fixture *f = *state;
    free(pg_sql(&server, "select pg_create_physical_replication_slot('s')"));
    f->spec.slot = "s";
    begin(f);
    sql_until("select count(*) from pg_stat_replication where state = 'streaming'", "1");
    free(pg_sql(&server, "insert into t values ('b')"));
    int64_t began = clock_ms();
    pg_signal(&server, SIGINT);
    assert_true(clock_ms() - began < 15000);
    assert_int_equal(end(f), ERR_CONNECT);
    if (!strstr(f->e.message, "it is shutting down"))
        fail_msg("%s", f->e.message);
    lsn_t got = f->result.lsn;
    pg_start(&server);
    assert_true(got <= flushed_lsn());
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_receive, setup, teardown),
        cmocka_unit_test_setup_teardown(test_positions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_slot, setup, teardown),
        cmocka_unit_test_setup_teardown(test_one_receiver, setup, teardown),
        cmocka_unit_test_setup_teardown(test_removed, setup, teardown),
        cmocka_unit_test_setup_teardown(test_silence, setup, teardown),
        cmocka_unit_test_setup_teardown(test_shutdown, setup, teardown),
    };
    return cmocka_run_group_tests_name("stream_receive", tests, group_setup, pg_teardown);
}
