/* Recoveries from a primary that is reached by ssh, as one of another host is. */
#include "../lib/sshd.h"
#include "agent_pair.h"

#include <libgen.h>
#include <linux/limits.h>

static struct sshd server;

/* By hand, root's unit runs as another user and elsewhere (lab_user). */
static bool
has_sshd(void)
{
    char *missing =
        access(SSHD_PROGRAM, X_OK) == 0 ? sshd_missing() : mem_strdup("no " SSHD_PROGRAM);
    bool has = !*missing;
    if (!has)
        print_message("# %s\n", missing);
    free(missing);
    return has;
}

static int
setup(void **state)
{
    if (!has_sshd())
        return 0;
    sshd_setup(&server, "");
    sshd_start(&server);
    pair_setup(state, 4);
    return 0;
}

static int
teardown(void **state)
{
    if (!server.dir)
        return 0;
    sshd_teardown(&server);
    return lab_teardown(state);
}

/* As lab_recover_args, with the source on that host, and there the moonrise that was built with this unit. */
static char *
far_args(struct lab *lab, const char *host, const char *type)
{
    char self[PATH_MAX] = {0};
    assert_true(readlink("/proc/self/exe", self, sizeof self - 1) > 0);
    char *args = lab_recover_args(lab, &prim, &mirr, type);
    static const char before[] = "\"source\":{";
    char *at = strstr(args, before);
    assert_non_null(at);
    at += sizeof before - 1;
    char *all = mem_printf("%.*s\"host\":\"%s\",\"program\":\"%s/moonrise\",%s", (int)(at - args),
                           args, host, dirname(dirname(self)), at);
    free(args);
    return all;
}

/* The bytes that went between the hosts. */
static int64_t
recover_far(struct lab *lab, const char *type)
{
    char *args = far_args(lab, "box", type);
    struct message *out = lab_ok(lab, &mirr, "recover", args);
    int64_t moved = message_int(out, "bytes_moved", -1);
    assert_true(message_bool(out, "streaming", false));
    message_free(out);
    free(args);
    return moved;
}

static void
are_equal(struct lab *lab)
{
    pair_is_equal(lab, "select (select sum(hashtextextended(a::text, 0)) from pgbench_accounts a), "
                       "(select sum(hashtextextended(h::text, 0)) from pgbench_history h)");
}

static void
skip_without_sshd(void)
{
    if (!server.dir)
        skip();
}

static void
a_full_one_and_a_differential_one(void **state)
{
    struct lab *lab = *state;
    skip_without_sshd();
    int64_t whole = recover_far(lab, "full");
    are_equal(lab);
    lab_do(lab, &mirr, "fence", "");
    lab_sql_is(lab, &prim, "create table more as select generate_series(1, 20000) n", "");
    lab_sql_is(lab, &prim, "alter system set work_mem = '7MB'", "");
    int64_t some = recover_far(lab, "differential");
    lab_sql_is(lab, &mirr, "show work_mem", "7MB");
    lab_sql_is(lab, &mirr, "show port", "6002");
    are_equal(lab);
    lab_sql_until(lab, &mirr, "select count(*) from more", "20000");
    print_message("bytes moved: %lld, then %lld\n", (long long)whole, (long long)some);
    assert_true(whole > (4 << 20) && some > 0 && some * 4 < whole);
}

/* WAL that the slot cannot hold back: its slot is moved up there while the copy goes on here. */
static void
wal_is_carried(void **state)
{
    struct lab *lab = *state;
    skip_without_sshd();
    lab_do(lab, &mirr, "fence", "");
    pair_bound_slots(lab, 48);
    char *args = far_args(lab, "box", "full");
    pid_t pid = pair_recover(lab, &(struct pair_recovery){.args = args, .max_rate = 20000000});
    pair_await_carrying(lab);
    /* More than fits, in steps that it can keep pace with. */
    for (int i = 0; i < 6; i++) {
        lab_sql_is(lab, &prim,
                   "select count(pg_logical_emit_message(false, 'w', repeat('x', 1000000))) "
                   "from generate_series(1, 20)",
                   "20");
        lab_sql_until(lab, &prim,
                      "select pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn) < 24000000 "
                      "from pg_replication_slots",
                      "t");
        lab_sql_is(lab, &prim, "checkpoint", "");
    }
    assert_int_equal(pair_recovered(pid), 0);
    lab_sql_is(lab, &prim, "alter system reset max_slot_wal_keep_size", "");
    lab_sql_is(lab, &prim, "select pg_reload_conf()", "t");
    are_equal(lab);
    free(args);
}

/* A tablespace at the same place of what is the same machine. */
static void
its_own_tablespace_is_not_taken(void **state)
{
    struct lab *lab = *state;
    skip_without_sshd();
    tmpdir_do(lab->dir, "mkdir $DIR/space");
    char *sql = mem_printf("create tablespace apart location '%s/space'", lab->dir);
    lab_sql_is(lab, &prim, sql, "");
    lab_do(lab, &mirr, "stop", "");
    char *args = far_args(lab, "box", "differential");
    lab_refused(lab, &mirr, "recover", args, ERR_REFUSED);
    free(args);
    free(sql);
    lab_sql_is(lab, &prim, "drop tablespace apart", "");
}

static void
await_sessions(struct lab *lab, const char *count)
{
    lab_sql_until(lab, &prim,
                  "select count(*) from pg_stat_activity where application_name like "
                  "'moonrise recover%'",
                  count);
}

static bool
is_copying(struct lab *lab)
{
    struct message *word = lab_ok(lab, &mirr, "inspect", "");
    const struct message *patch = message_object(word, "patch");
    bool yes = patch && message_int(patch, "bytes_done", 0) > 0;
    message_free(word);
    return yes;
}

/* A recovery of at most so many bytes a second, once it copies. */
static pid_t
copying(struct lab *lab, const char *type, int max_rate)
{
    char *args = far_args(lab, "box", type);
    int64_t until = clock_ms() + 60000;
    pid_t pid = pair_recover(lab, &(struct pair_recovery){.args = args, .max_rate = max_rate});
    while (!is_copying(lab))
        assert_true(clock_ms() < until);
    free(args);
    return pid;
}

/* The link breaks in the middle: the copy fails, the backup on the source ends, and a rerun goes on. */
static void
the_link_breaks(void **state)
{
    struct lab *lab = *state;
    skip_without_sshd();
    lab_do(lab, &mirr, "fence", "");
    pid_t pid = copying(lab, "full", 10000000);
    sshd_break_sessions(&server);
    assert_int_equal(pair_recovered(pid), ERR_CONNECT);
    await_sessions(lab, "0");
    int64_t moved = recover_far(lab, "full");
    print_message("bytes moved by the rerun: %lld\n", (long long)moved);
    are_equal(lab);
}

/* The recovering agent dies: nothing of it is left on the source's host. */
static void
the_agent_dies(void **state)
{
    struct lab *lab = *state;
    int status;
    skip_without_sshd();
    lab_do(lab, &mirr, "fence", "");
    pid_t pid = copying(lab, "differential", 5000000);
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    await_sessions(lab, "0");
    recover_far(lab, "differential");
    are_equal(lab);
}

static void
a_host_that_is_not_there(void **state)
{
    struct lab *lab = *state;
    struct message *out;
    struct err e = {0};
    skip_without_sshd();
    lab_do(lab, &mirr, "fence", "");
    char *args = far_args(lab, "no.such.host.invalid", "differential");
    int rc = lab_try(&out, lab, &(struct lab_call){&mirr, "recover", args}, &e);
    print_message("%s\n", e.message);
    assert_true(rc < 0);
    assert_non_null(strstr(e.message, "no.such.host.invalid"));
    free(args);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_full_one_and_a_differential_one),
        cmocka_unit_test(its_own_tablespace_is_not_taken),
        cmocka_unit_test(wal_is_carried),
        cmocka_unit_test(the_link_breaks),
        cmocka_unit_test(the_agent_dies),
        cmocka_unit_test(a_host_that_is_not_there),
    };
    (void)argc;
    lab_user(argv);
    return cmocka_run_group_tests(tests, setup, teardown);
}
