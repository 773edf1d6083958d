/* Arming, releasing, promoting a pair of real servers. */
#include "agent_pair.h"
#include "moonrise/base/io.h"
#include "moonrise/conn/conn.h"
#include "moonrise/conn/db.h"

#include <pthread.h>

#define ARM "\"name\":\"mr_0_3_7\",\"slot\":\"mr_slot_3\""

static int
setup(void **state)
{
    struct lab *lab = lab_setup(state, &prim);
    lab_sql_is(lab, &prim, "create table t (n int)", "");
    lab_mirror(lab, &prim, &mirr, "full");
    return 0;
}

/* An arming that somebody gives up. */
struct arming {
    struct lab *lab;
    atomic_bool cancel;
};

static void
name_it(struct lab *lab)
{
    struct message *named = lab_ok(lab, &mirr, "name", "\"name\":\"mr_0_3_7\"");
    assert_true(message_bool(named, "streaming", false));
    message_free(named);
}

static void
a_full_recovery_makes_a_mirror(void **state)
{
    struct lab *lab = *state;
    lab_sql_is(lab, &mirr, "select pg_is_in_recovery()", "t");
    lab_sql_is(lab, &prim, "select application_name, state from pg_stat_replication",
               "mr_0_3|streaming");
    lab_sql_is(lab, &prim, "select slot_name, active from pg_replication_slots", "mr_slot_3|t");
    lab_sql_is(lab, &prim, "insert into t values (1)", "");
    lab_sql_until(lab, &mirr, "select count(*) from t", "1");
    assert_false(lab_has(lab, &mirr, "moonrise.patch"));
    assert_false(lab_has(lab, &mirr, "moonrise.control"));
    lab_sql_is(lab, &mirr, "show port", "6002");
}

static void
arms_and_releases(void **state)
{
    struct lab *lab = *state;
    lab_refused(lab, &prim, "arm", ARM, ERR_REFUSED); /* the mirror does not have the name yet */
    name_it(lab);
    struct message *armed = lab_ok(lab, &prim, "arm", ARM);
    assert_string_not_equal(message_text(armed, "insert_lsn", ""), "");
    assert_in_range(message_int(armed, "waited_ms", -1), 0, 1000);
    print_message("armed in %d ms\n", (int)message_int(armed, "waited_ms", -1));
    char *flushed = mem_printf("select flushed_lsn >= '%s' from pg_stat_wal_receiver",
                               message_text(armed, "insert_lsn", ""));
    lab_sql_until(lab, &mirr, flushed, "t");
    free(flushed);
    message_free(armed);
    lab_sql_is(lab, &prim, "show synchronous_standby_names", "mr_0_3_7");
    lab_sql_is(lab, &prim, "select sync_state from pg_stat_replication", "sync");
    /* Commits wait now: with the mirror stopped one does not come back. */
    lab_do(lab, &mirr, "stop", "\"mode\":\"immediate\"");
    tmpdir_do(lab->dir, "($PG/psql -h $DIR/p -p 6001 -d postgres -Xqc 'insert into t values (2)' "
                        ">/dev/null 2>&1 &) </dev/null");
    lab_sql_until(lab, &prim, "select count(*) from pg_stat_activity where wait_event = 'SyncRep'",
                  "1");
    struct message *released = lab_ok(lab, &prim, "release", "");
    print_message("released in %d ms\n", (int)message_int(released, "waited_ms", -1));
    message_free(released);
    lab_sql_is(lab, &prim, "select count(*) from pg_stat_activity where wait_event = 'SyncRep'",
               "0");
    lab_sql_is(lab, &prim, "show synchronous_standby_names", "");
    lab_sql_until(lab, &prim, "select count(*) from t where n = 2", "1");
    lab_do(lab, &mirr, "start", "\"listen\":\"\"");
    lab_sql_is(lab, &prim,
               "select count(*) from pg_stat_activity where application_name like "
               "'moonrise agent%'",
               "0");
}

/* A mirror that does not answer: nothing stays armed, and nobody is left waiting. */
static void
an_arming_that_fails_is_undone(void **state)
{
    struct lab *lab = *state;
    name_it(lab);
    char *receiver = lab_sql(lab, &mirr, "select pid from pg_stat_wal_receiver");
    int pid = atoi(receiver);
    free(receiver);
    kill(pid, SIGSTOP);
    lab_refused(lab, &prim, "arm", ARM, ERR_TIMEOUT);
    kill(pid, SIGCONT);
    lab_sql_is(lab, &prim, "show synchronous_standby_names", "");
    lab_sql_is(lab, &prim, "insert into t values (3)", "");
    /* And one that is held up: no canary waits while the checkpointer does not reread settings. */
    char *checkpointer = lab_sql(lab, &prim,
                                 "select pid from pg_stat_activity where backend_type = "
                                 "'checkpointer'");
    pid = atoi(checkpointer);
    free(checkpointer);
    kill(pid, SIGSTOP);
    lab_refused(lab, &prim, "arm", ARM, ERR_TIMEOUT);
    kill(pid, SIGCONT);
    lab_sql_is(lab, &prim, "insert into t values (4)", "");
}

static int
checkpointer(struct lab *lab)
{
    char *text =
        lab_sql(lab, &prim, "select pid from pg_stat_activity where backend_type = 'checkpointer'");
    int pid = atoi(text);
    free(text);
    assert_true(pid > 0);
    return pid;
}

/* A release that timed out leaves commits waiting for what was set before. That one waits proves nothing
 * then: an arming comes only after one has passed. */
static void
an_old_wait_is_no_proof(void **state)
{
    struct lab *lab = *state;
    name_it(lab);
    lab_do(lab, &prim, "arm", ARM);
    int pid = checkpointer(lab);
    kill(pid, SIGSTOP); /* as inside of a checkpoint: it does not reread settings */
    lab_refused(lab, &prim, "release", "\"wait_ms\":200", ERR_TIMEOUT);
    int64_t began = clock_ms();
    lab_refused(lab, &prim, "arm", ARM, ERR_TIMEOUT);
    print_message("refused after %d ms\n", (int)(clock_ms() - began));
    lab_sql_is(lab, &prim, "show synchronous_standby_names", "");
    kill(pid, SIGCONT);
    lab_sql_is(lab, &prim, "insert into t values (6)", "");
    lab_do(lab, &prim, "arm", ARM);
    /* Armed once more under another epoch, without a release in between. */
    lab_do(lab, &prim, "arm", ARM);
    lab_do(lab, &prim, "release", "");
}

/* What the order's own role was given hides the server's level, above it as well as below. */
static void
only_the_server_s_own_level_counts(void **state)
{
    struct lab *lab = *state;
    char *own = mem_printf("alter role %s set synchronous_commit = on", lab->user);
    char *reset = mem_printf("alter role %s reset synchronous_commit", lab->user);
    name_it(lab);
    lab_sql_is(lab, &prim, own, "");
    free(lab_sql(lab, &prim, "alter system set synchronous_commit = off"));
    free(lab_sql(lab, &prim, "select pg_reload_conf()"));
    lab_refused(lab, &prim, "arm", ARM, ERR_REFUSED);
    free(lab_sql(lab, &prim, "alter system reset synchronous_commit"));
    free(lab_sql(lab, &prim, "select pg_reload_conf()"));
    lab_do(lab, &prim, "arm", ARM);
    lab_do(lab, &prim, "release", "");
    free(lab_sql(lab, &prim, reset));
    free(own);
    free(reset);
}

/* Waits until the server was told to wait for nobody, then gives the call up, as the end of a session does. */
static void *
give_up(void *arg)
{
    struct arming *a = arg;
    char *path = mem_printf("%s/p/postgresql.auto.conf", a->lab->dir);
    struct str text = STR_INIT;
    int64_t until = clock_ms() + 5000;
    while (!strstr(text.data, "mr_nobody") && clock_ms() < until) {
        io_read_file(&text, path, 1 << 20, NULL);
        lab_pause_ms(1);
    }
    atomic_store(&a->cancel, true);
    str_free(&text);
    free(path);
    return NULL;
}

/* Given up half-way, an arming takes its way back all the same: nobody is left waiting for nobody. */
static void
an_arming_that_is_given_up_is_undone(void **state)
{
    struct arming a = {.lab = *state};
    struct message *args, *out;
    struct err e = {0};
    pthread_t thread;
    name_it(a.lab);
    char *checkpointer = lab_sql(a.lab, &prim,
                                 "select pid from pg_stat_activity where backend_type = "
                                 "'checkpointer'");
    int pid = atoi(checkpointer);
    free(checkpointer);
    kill(pid, SIGSTOP); /* so that the canary is not seen waiting at once */
    char *json = lab_json(a.lab, &prim, ARM);
    assert_int_equal(message_parse(&args, json, strlen(json), &e), 0);
    assert_int_equal(pthread_create(&thread, NULL, give_up, &a), 0);
    struct agent_call call = {.op = "arm", .args = args, .cancel = &a.cancel};
    assert_int_equal(agent_call(&out, &call, &e), ERR_CANCELLED);
    pthread_join(thread, NULL);
    kill(pid, SIGCONT);
    lab_sql_until(a.lab, &prim, "show synchronous_standby_names", "");
    lab_sql_is(a.lab, &prim, "insert into t values (5)", "");
    message_free(args);
    free(json);
}

/* A receiver that borrows the mirror's name acknowledges in its place. */
static void
a_borrowed_name_is_refused(void **state)
{
    struct lab *lab = *state;
    char *pid_text = tmpdir_shell(
        lab->dir, "mkdir -p $DIR/wal; ($PG/pg_receivewal -D $DIR/wal -d 'host='$DIR'/p port=6001 "
                  "application_name=mr_0_3_7' >/dev/null 2>&1 & echo $!) </dev/null");
    int pid = atoi(pid_text);
    free(pid_text);
    lab_sql_until(lab, &prim,
                  "select count(*) from pg_stat_replication where application_name = 'mr_0_3_7'",
                  "2");
    lab_refused(lab, &prim, "arm", ARM, ERR_REFUSED);
    kill(pid, SIGKILL);
    lab_sql_until(lab, &prim, "select count(*) from pg_stat_replication", "1");
}

/* SQL in flight from an order that was given up: ended by the next one before it acts. */
static void
sessions_of_earlier_orders_are_ended(void **state)
{
    struct lab *lab = *state;
    char *command =
        mem_printf("(PGAPPNAME='moonrise agent 1' $PG/psql -h $DIR/p -p 6001 -d postgres -Xqc "
                   "'select pg_sleep(100)' >/dev/null 2>&1 &) </dev/null");
    tmpdir_do(lab->dir, command);
    free(command);
    static const char sql[] =
        "select count(*) from pg_stat_activity where application_name = 'moonrise agent 1'";
    lab_sql_until(lab, &prim, sql, "1");
    lab_do(lab, &prim, "release", "");
    lab_sql_is(lab, &prim, sql, "0");
}

static void
a_promotion_asks_the_mirror_first(void **state)
{
    struct lab *lab = *state;
    static const char slots[] = "select count(*) from pg_replication_slots";
    lab_refused(lab, &mirr, "promote", "\"flush_lsn\":\"FF/0\",\"slot\":\"mr_slot_2\"",
                ERR_REFUSED);
    lab_sql_is(lab, &mirr, slots, "0");
    lab_sql_is(lab, &mirr, "select pg_wal_replay_pause()", "");
    lab_refused(lab, &mirr, "promote", "\"flush_lsn\":\"0/1\",\"slot\":\"mr_slot_2\"", ERR_REFUSED);
    lab_sql_is(lab, &mirr, "select pg_wal_replay_resume()", "");
    lab_sql_is(lab, &mirr, "alter system set synchronous_standby_names = 'x'; ", "");
    lab_sql_is(lab, &mirr, "select pg_reload_conf()", "t");
    lab_sql_until(lab, &mirr, "show synchronous_standby_names", "x");
    lab_refused(lab, &mirr, "promote", "\"flush_lsn\":\"0/1\",\"slot\":\"mr_slot_2\"", ERR_REFUSED);
    lab_sql_is(lab, &mirr, "alter system reset synchronous_standby_names", "");
    lab_sql_is(lab, &mirr, "select pg_reload_conf()", "t");
    lab_sql_until(lab, &mirr, "show synchronous_standby_names", "");
    lab_sql_is(lab, &mirr, slots, "0");
    /* Everything is well but the promotion itself: the slot made for it goes again. */
    tmpdir_do(lab->dir, "mkdir $DIR/m/promote");
    lab_refused(lab, &mirr, "promote", "\"flush_lsn\":\"0/1\",\"slot\":\"mr_slot_2\"", ERR_SQL);
    tmpdir_do(lab->dir, "rmdir $DIR/m/promote");
    lab_sql_is(lab, &mirr, slots, "0");
    lab_sql_is(lab, &mirr, "select pg_is_in_recovery()", "t");
}

/* A mirror that was killed leaves a postmaster.pid that names nobody: it is pointed at its primary by its
 * files, and one that runs by its server. */
static void
a_killed_mirror_is_pointed_too(void **state)
{
    struct lab *lab = *state;
    char *args =
        mem_printf("\"conninfo\":\"host=%s/p port=6001 user=%s application_name=mr_0_3_8\","
                   "\"slot\":\"mr_slot_3\"",
                   lab->dir, lab->user);
    static const char sql[] = "select application_name from pg_stat_replication";
    kill(lab_postmaster(lab, &mirr), SIGKILL);
    lab_do(lab, &mirr, "fence", "");
    assert_true(lab_has(lab, &mirr, "postmaster.pid"));
    lab_do(lab, &mirr, "follow", args);
    lab_do(lab, &mirr, "start", "\"listen\":\"\"");
    lab_sql_until(lab, &prim, sql, "mr_0_3_8");
    strstr(args, "mr_0_3_8")[7] = '9';
    lab_do(lab, &mirr, "follow", args);
    lab_sql_until(lab, &prim, sql, "mr_0_3_9");
    free(args);
}

/* One try of the following: false when the record was complete before its backend could be halted. */
static bool
halt_half_way(struct lab *lab)
{
    char *began = lab_sql(lab, &prim, "select pg_current_wal_flush_lsn()");
    tmpdir_do(lab->dir, "(PGAPPNAME=half $PG/psql -h $DIR/p -p 6001 -d postgres -Xqc \"select "
                        "pg_logical_emit_message(false, 'moonrise', repeat('x', 300000000))\" "
                        ">/dev/null 2>&1 &) </dev/null");
    char *sql =
        mem_printf("select pg_wal_lsn_diff(pg_last_wal_receive_lsn(), '%s') > 4000000", began);
    lab_sql_until(lab, &mirr, sql, "t");
    char *pid =
        lab_sql(lab, &prim, "select pid from pg_stat_activity where application_name = 'half'");
    bool halted = atoi(pid) > 0 && kill(atoi(pid), SIGSTOP) == 0;
    free(pid);
    free(sql);
    free(began);
    return halted;
}

/* The mirror has received the beginning of a record whose rest will never come: the inserting backend is
 * halted while it waits for room in the buffers, so what was written so far goes out. */
static void
half_a_record(struct lab *lab)
{
    bool halted = false;
    for (int i = 0; i < 10 && !halted; i++)
        halted = halt_half_way(lab);
    assert_true(halted);
}

#define FULL 200 /* sessions: more than a server lets in by default */

/* Takes sessions of a server until it lets nobody in. */
static int
fill(struct db *taken[FULL], struct lab *lab, const struct inst *i)
{
    char port[12], *dir = mem_printf("%s/%s", lab->dir, i->name);
    snprintf(port, sizeof port, "%d", i->port);
    const char *const keywords[] = {"host", "port", "user", "dbname", NULL};
    const char *const values[] = {dir, port, lab->user, "postgres", NULL};
    struct conn_params params = {.keywords = keywords, .values = values};
    struct err e = {0};
    int count = 0;
    while (count < FULL && db_open(&taken[count], &params, clock_ms() + 10000, NULL, &e) == 0)
        count++;
    assert_string_equal(e.sqlstate, "53300");
    free(dir);
    return count;
}

/* A release of a server that is full, and what came of it. */
struct releasing {
    struct lab *lab;
    int code;
};

static void *
release_it(void *arg)
{
    struct releasing *r = arg;
    struct message *out = NULL;
    struct err e = {0};
    r->code = lab_try(&out, r->lab, &(struct lab_call){&prim, "release", ""}, &e);
    message_free(out);
    return NULL;
}

/* Its sessions would end those of the newer order: it does not get to open any. */
static void
a_release_that_is_overtaken_opens_no_session(void **state)
{
    struct lab *lab = *state;
    struct db *taken[FULL];
    struct releasing r = {.lab = lab};
    pthread_t thread;
    int count = fill(taken, lab, &prim);
    assert_int_equal(pthread_create(&thread, NULL, release_it, &r), 0);
    tmpdir_do(lab->dir, "timeout 30 sh -c \"until grep -q release $DIR/p/moonrise.epoch; "
                        "do :; done\"");
    lab_refused(lab, &prim, "checkpoint", "", ERR_SQL);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(r.code, ERR_STALE);
    while (count > 0)
        db_close(taken[--count]);
    lab_sql_until(lab, &prim,
                  "select count(*) from pg_stat_activity where backend_type = 'client backend'",
                  "1");
}

static void
fails_over(void **state)
{
    struct lab *lab = *state;
    name_it(lab);
    lab_do(lab, &prim, "arm", ARM);
    lab_sql_is(lab, &prim, "insert into t select generate_series(10, 1000)", "");
    half_a_record(lab);
    char *count = lab_sql(lab, &prim, "select count(*) from t");
    kill(lab_postmaster(lab, &prim), SIGKILL);
    int64_t fenced = clock_ms();
    lab_do(lab, &prim, "fence", "");
    lab_do(lab, &prim, "mark", "\"reason\":\"dbid 3 took over\"");
    print_message("fenced and marked in %d ms\n", (int)(clock_ms() - fenced));
    lab_sql_until(lab, &mirr, "select count(*) from pg_stat_wal_receiver", "0");
    char *flush = lab_sql(lab, &mirr, "select pg_last_wal_receive_lsn()");
    char *args = mem_printf("\"flush_lsn\":\"%s\",\"slot\":\"mr_slot_2\",\"epoch\":500", flush);
    int64_t began = clock_ms();
    struct message *done = lab_ok(lab, &mirr, "promote", args);
    print_message("promoted in %d ms\n", (int)(clock_ms() - began));
    assert_int_equal(message_int(done, "timeline", 0), 2);
    assert_false(message_bool(done, "already", true));
    assert_string_equal(message_text(done, "received_lsn", ""), flush);
    char *again = mem_printf("%s", message_text(done, "switch_lsn", ""));
    message_free(done);
    lab_sql_is(lab, &mirr, "select count(*) from t", count);
    lab_sql_is(lab, &mirr, "insert into t values (0)", "");
    lab_sql_is(lab, &mirr, "select slot_name, restart_lsn is not null from pg_replication_slots",
               "mr_slot_2|t");
    done = lab_ok(lab, &mirr, "promote", args); /* the very same order again */
    assert_true(message_bool(done, "already", false));
    assert_string_equal(message_text(done, "switch_lsn", ""), again);
    message_free(done);
    lab_refused(lab, &mirr, "release", "\"epoch\":499", ERR_STALE);
    lab_refused(lab, &prim, "start", "\"listen\":\"\"", ERR_REFUSED);

    /* And back: the old primary as the mirror of the new one, by the blocks that differ. */
    lab->epoch = 600;
    lab_mirror(lab, &mirr, &prim, "differential");
    lab_sql_until(lab, &prim, "select count(*) from t where n = 0", "1");
    lab_sql_is(lab, &prim, "select pg_is_in_recovery()", "t");
    free(again);
    free(args);
    free(flush);
    free(count);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_full_recovery_makes_a_mirror),
        cmocka_unit_test(arms_and_releases),
        cmocka_unit_test(an_arming_that_fails_is_undone),
        cmocka_unit_test(an_arming_that_is_given_up_is_undone),
        cmocka_unit_test(an_old_wait_is_no_proof),
        cmocka_unit_test(only_the_server_s_own_level_counts),
        cmocka_unit_test(a_borrowed_name_is_refused),
        cmocka_unit_test(sessions_of_earlier_orders_are_ended),
        cmocka_unit_test(a_release_that_is_overtaken_opens_no_session),
        cmocka_unit_test(a_promotion_asks_the_mirror_first),
        cmocka_unit_test(a_killed_mirror_is_pointed_too),
        cmocka_unit_test(fails_over),
    };
    (void)argc;
    lab_user(argv);
    return cmocka_run_group_tests(tests, setup, lab_teardown);
}
