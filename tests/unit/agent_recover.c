/* Recoveries of a real mirror from a real primary that is written to, killed anywhere and run again. */
#include "agent_pair.h"

#include <linux/magic.h>
#include <sys/vfs.h>

static int
setup(void **state)
{
    pair_setup(state, 4);
    return 0;
}

static int
writer(struct lab *lab)
{
    return pair_writer(lab, "-c 2");
}

static void
are_equal(struct lab *lab)
{
    pair_is_equal(lab, "select (select sum(hashtextextended(a::text, 0)) from pgbench_accounts a), "
                       "(select sum(hashtextextended(h::text, 0)) from pgbench_history h), "
                       "(select sum(hashtextextended(t::text, 0)) from pgbench_tellers t)");
}

/* Until the recovery has the directory to itself. */
static void
await_taken(struct lab *lab, pid_t pid)
{
    int64_t until = clock_ms() + 10000;
    char *sql = mem_printf("cat $DIR/m/postmaster.pid 2>/dev/null || true");
    char *want = mem_printf("-%d\n", (int)pid), *text = NULL;
    do {
        free(text);
        text = tmpdir_shell(lab->dir, sql);
    } while (strcmp(text, want) != 0 && clock_ms() < until);
    assert_string_equal(text, want);
    free(text);
    free(want);
    free(sql);
}

/* A recovery that has the directory to itself, and for a while. */
static pid_t
recover_slowly(struct lab *lab, const char *args)
{
    pid_t pid = pair_recover(lab, &(struct pair_recovery){.args = args, .max_rate = 4000000});
    await_taken(lab, pid);
    return pid;
}

static void
full_while_it_is_written(void **state)
{
    struct lab *lab = *state;
    int w = writer(lab);
    tmpdir_do(lab->dir, "mkdir -m 755 $DIR/m"); /* somebody has made it, open to all */
    lab_mirror(lab, &prim, &mirr, "full");
    pair_end_writer(lab, w);
    are_equal(lab);
    lab_sql_is(lab, &prim, "select slot_name, active from pg_replication_slots", "mr_slot_3|t");
    lab_sql_is(lab, &mirr, "select count(*) from pg_replication_slots", "0");
}

static void
differential_after_a_crash(void **state)
{
    struct lab *lab = *state;
    int w = writer(lab);
    lab_do(lab, &mirr, "fence", "");
    lab_sql_is(lab, &prim, "create table more as select generate_series(1, 20000) n", "");
    lab_sql_is(lab, &prim, "alter system set synchronous_standby_names = 'mr_0_3_1'", "");
    lab_sql_is(lab, &prim, "alter system set work_mem = '7MB'", "");
    lab_mirror(lab, &prim, &mirr, "differential");
    lab_sql_is(lab, &prim, "alter system reset synchronous_standby_names", "");
    lab_sql_is(lab, &mirr, "show synchronous_standby_names", "");
    lab_sql_is(lab, &mirr, "show work_mem", "7MB");
    lab_sql_is(lab, &mirr, "show port", "6002");
    pair_end_writer(lab, w);
    are_equal(lab);
    lab_sql_until(lab, &mirr, "select count(*) from more", "20000");
}

/* What a differential after this order reads from the disk, in MB; -1 where that cannot be told. */
static int
disk_read_mb(struct lab *lab, const char *order)
{
    uint64_t bytes[2] = {0, 0};
    char line[64], *path = mem_printf("%s/m", lab->dir);
    struct statfs fs;
    bool told = statfs(path, &fs) == 0 && fs.f_type != TMPFS_MAGIC;
    free(path);
    lab_do(lab, &mirr, order, "");
    tmpdir_do(lab->dir, "cat $DIR/m/base/*/* >/dev/null");
    for (int i = 0; i < 2; i++) {
        if (i == 1)
            lab_mirror(lab, &prim, &mirr, "differential");
        FILE *f = fopen("/proc/self/io", "r");
        bool found = false;
        while (f && !found && fgets(line, sizeof line, f))
            found = sscanf(line, "read_bytes: %" SCNu64, &bytes[i]) == 1;
        told = told && found;
        if (f)
            fclose(f);
    }
    return told ? (int)((bytes[1] - bytes[0]) >> 20) : -1;
}

/* The page cache of a target that was not shut down may hold what its disk does not: the disk is asked. */
static void
the_cache_of_a_crashed_one_is_not_trusted(void **state)
{
    struct lab *lab = *state;
    int crashed = disk_read_mb(lab, "fence"), stopped = disk_read_mb(lab, "stop");
    print_message("MB read from the disk: %d after a crash, %d after a stop\n", crashed, stopped);
    assert_true(crashed < 0 || (crashed > 50 && stopped < 25));
}

/* How long a whole recovery of this type takes here, in milliseconds. */
static int
whole_ms(struct lab *lab, const char *type)
{
    int64_t began = clock_ms();
    lab_do(lab, &mirr, "fence", "");
    lab_mirror(lab, &prim, &mirr, type);
    return (int)(clock_ms() - began) + 1;
}

/* Killed at random points of either type and run again: half-made in between, whole in the end. */
static void
killed_anywhere(void **state)
{
    struct lab *lab = *state;
    int w = writer(lab), rounds = getenv("MOONRISE_CAMPAIGN") ? 60 : 8, killed = 0;
    srandom((unsigned)time(NULL));
    lab->epoch = 100000;
    const char *types[] = {"differential", "full"};
    int whole[] = {whole_ms(lab, types[0]), whole_ms(lab, types[1])};
    lab_do(lab, &mirr, "fence", "");
    for (int i = 0; i < rounds; i++) {
        char *args = lab_recover_args(lab, &prim, &mirr, types[i % 2]);
        int status;
        pid_t pid = pair_recover(lab, &(struct pair_recovery){.args = args});
        lab_pause_ms((int)(random() % whole[i % 2]));
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
        killed += WIFSIGNALED(status);
        struct message *word = lab_ok(lab, &mirr, "inspect", "");
        if (message_object(word, "patch")) {
            assert_string_equal(message_text(word, "kind", ""), "half-made");
            lab_refused(lab, &mirr, "start", "\"listen\":\"\"", ERR_REFUSED);
        } else { /* it was whole: its server may be about to start */
            lab_do(lab, &mirr, "fence", "");
        }
        message_free(word);
        free(args);
    }
    lab_mirror(lab, &prim, &mirr, "differential");
    pair_end_writer(lab, w);
    assert_true(killed > 0);
    are_equal(lab);
}

/* While a recovery is under way nobody else starts a server there, nor a second recovery that is older. */
static void
others_are_kept_out(void **state)
{
    struct lab *lab = *state;
    int status;
    lab->epoch = 200000;
    lab_do(lab, &mirr, "stop", "");
    char *args = lab_recover_args(lab, &prim, &mirr, "differential");
    pid_t pid = recover_slowly(lab, args);
    char *out = tmpdir_shell(lab->dir, "$PG/pg_ctl -D $DIR/m -w -t 5 start 2>&1 || true; "
                                       "$PG/postgres -D $DIR/m 2>&1 || true");
    assert_null(strstr(out, "server started"));
    assert_non_null(strstr(out, "could not find the database system"));
    free(out);
    /* The lock is there besides: seen when pg_control is. */
    out =
        tmpdir_shell(lab->dir, "cp $DIR/p/global/pg_control $DIR/m/global/; "
                               "$PG/postgres -D $DIR/m 2>&1 || true; rm $DIR/m/global/pg_control");
    assert_non_null(strstr(out, "lock file \"postmaster.pid\" already exists"));
    free(out);
    char *late = mem_printf("%s,\"epoch\":199999", args);
    lab_refused(lab, &mirr, "recover", late, ERR_STALE);
    assert_int_equal(waitpid(pid, &status, WNOHANG), 0);
    /* A newer one ends it and goes on. */
    lab->epoch = 200010;
    lab_mirror(lab, &prim, &mirr, "differential");
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
    are_equal(lab);
    free(late);
    free(args);
}

/* The source dies in the middle: the recovery fails, and a rerun goes on. */
static void
the_source_is_restarted(void **state)
{
    struct lab *lab = *state;
    lab->epoch = 300000;
    lab_do(lab, &mirr, "fence", "");
    char *args = lab_recover_args(lab, &prim, &mirr, "differential");
    pid_t pid = recover_slowly(lab, args);
    lab_do(lab, &prim, "stop", "\"mode\":\"immediate\"");
    lab_do(lab, &prim, "start", "\"listen\":\"\"");
    assert_true(pair_recovered(pid) < 0);
    lab_refused(lab, &mirr, "start", "\"listen\":\"\"", ERR_REFUSED);
    lab_mirror(lab, &prim, &mirr, "differential");
    are_equal(lab);
    free(args);
}

/* The arguments of a recovery whose target finds its primary only through $DIR/door, which is not there yet:
 * its server starts and cannot become consistent. */
static char *
args_behind_a_door(struct lab *lab)
{
    char *args = lab_recover_args(lab, &prim, &mirr, "differential");
    char *from = mem_printf("host=%s/p ", lab->dir), *to = mem_printf("host=%s/door ", lab->dir);
    char *at = strstr(args, from);
    assert_non_null(at);
    char *out = mem_printf("%.*s%s%s", (int)(at - args), args, to, at + strlen(from));
    free(from);
    free(to);
    free(args);
    return out;
}

/* Until the target's own server has the directory. */
static void
await_server(struct lab *lab)
{
    int64_t until = clock_ms() + 30000;
    char *text = NULL;
    do {
        free(text);
        text = tmpdir_shell(lab->dir, "sed -n 8p $DIR/m/postmaster.pid 2>/dev/null || true");
    } while (strncmp(text, "starting", 8) != 0 && clock_ms() < until);
    assert_int_equal(strncmp(text, "starting", 8), 0);
    free(text);
}

/* A target that cannot become consistent yet is waited for while its source lives. */
static void
a_slow_target_is_waited_for(void **state)
{
    struct lab *lab = *state;
    int status;
    lab->epoch = 310000;
    lab_do(lab, &mirr, "fence", "");
    char *args = args_behind_a_door(lab);
    pid_t pid = pair_recover(lab, &(struct pair_recovery){.args = args});
    await_server(lab);
    lab_pause_ms(6000);
    assert_int_equal(waitpid(pid, &status, WNOHANG), 0);
    tmpdir_do(lab->dir, "ln -s p $DIR/door");
    assert_int_equal(pair_recovered(pid), 0);
    tmpdir_do(lab->dir, "rm $DIR/door");
    free(args);
}

/* The source dies while the target is started: seconds later that is told, and a rerun does the job. */
static void
the_source_dies_at_the_end(void **state)
{
    struct lab *lab = *state;
    lab->epoch = 320000;
    lab_do(lab, &mirr, "fence", "");
    char *args = args_behind_a_door(lab);
    pid_t pid = pair_recover(lab, &(struct pair_recovery){.args = args});
    await_server(lab);
    int64_t died = clock_ms();
    kill(lab_postmaster(lab, &prim), SIGKILL);
    lab_do(lab, &prim, "fence", "");
    assert_true(pair_recovered(pid) < 0);
    print_message("given up after %d ms\n", (int)(clock_ms() - died));
    assert_true(clock_ms() - died < 20000);
    lab_do(lab, &prim, "start", "\"listen\":\"\"");
    lab_do(lab, &mirr, "stop", "");
    lab_mirror(lab, &prim, &mirr, "differential");
    are_equal(lab);
    free(args);
}

/* A target that cannot be taken stays as it was; but a marked one is not made startable again. */
static void
what_was_taken_is_given_back(void **state)
{
    struct lab *lab = *state;
    lab->epoch = 330000;
    char *args = lab_recover_args(lab, &prim, &mirr, "differential");
    /* The lock file cannot be made, after pg_control was moved: a link to nowhere has its name. */
    static const char in_the_way[] = "ln -s nowhere $DIR/m/postmaster.pid";
    lab_do(lab, &mirr, "stop", "");
    tmpdir_do(lab->dir, in_the_way);
    lab_refused(lab, &mirr, "recover", args, ERR_RUNNING);
    assert_true(lab_has(lab, &mirr, "global/pg_control"));
    assert_false(lab_has(lab, &mirr, "moonrise.control"));
    assert_false(lab_has(lab, &mirr, "moonrise.patch"));
    tmpdir_do(lab->dir, "rm $DIR/m/postmaster.pid");
    lab_do(lab, &mirr, "start", "\"listen\":\"\"");

    lab_do(lab, &mirr, "mark", "\"reason\":\"it was replaced\"");
    tmpdir_do(lab->dir, "$PG/pg_ctl -D $DIR/m -w -m fast stop >/dev/null");
    assert_true(lab_has(lab, &mirr, "global/pg_control"));
    tmpdir_do(lab->dir, in_the_way);
    lab_refused(lab, &mirr, "recover", args, ERR_RUNNING);
    assert_false(lab_has(lab, &mirr, "global/pg_control"));
    assert_true(lab_has(lab, &mirr, "moonrise.control"));
    assert_false(lab_has(lab, &mirr, "moonrise.patch"));
    tmpdir_do(lab->dir, "rm $DIR/m/postmaster.pid");
    lab_refused(lab, &mirr, "start", "\"listen\":\"\"", ERR_REFUSED);
    lab_mirror(lab, &prim, &mirr, "differential");
    free(args);
}

static void
refuses_what_must_not_be_written(void **state)
{
    struct lab *lab = *state;
    static const struct inst other = {.name = "other", .port = 6003, .dbid = 4};
    lab->epoch = 400000;
    char *args = lab_recover_args(lab, &prim, &mirr, "differential");
    lab_refused(lab, &mirr, "recover", args, ERR_RUNNING);
    lab_sql_is(lab, &mirr, "checkpoint; select 1", "1");
    lab_do(lab, &mirr, "stop", "");
    char *primary = mem_printf("%s,\"role\":\"p\"", args);
    lab_refused(lab, &mirr, "recover", primary, ERR_REFUSED);
    free(primary);
    char *same = lab_recover_args(lab, &prim, &prim, "differential");
    lab_refused(lab, &prim, "recover", same, ERR_REFUSED);
    free(same);
    char *system = mem_printf("%s,\"sysid\":\"1\"", args);
    lab_refused(lab, &mirr, "recover", system, ERR_REFUSED);
    free(system);
    free(args);
    assert_true(lab_has(lab, &mirr, "global/pg_control"));
    assert_false(lab_has(lab, &mirr, "moonrise.patch"));
    lab_do(lab, &mirr, "start", "\"listen\":\"\"");

    tmpdir_do(lab->dir, "mkdir -m 700 $DIR/other; echo precious >$DIR/other/file");
    args = lab_recover_args(lab, &prim, &other, "full");
    lab_refused(lab, &other, "recover", args, ERR_REFUSED);
    assert_true(lab_has(lab, &other, "file"));
    tmpdir_do(lab->dir, "rm -r $DIR/other; $PG/initdb -D $DIR/other -A peer >/dev/null");
    lab_refused(lab, &other, "recover", args, ERR_REFUSED);
    char *differential = lab_recover_args(lab, &prim, &other, "differential");
    char *accepted = mem_printf("%s,\"accept_foreign\":true", differential);
    lab_refused(lab, &other, "recover", accepted, ERR_REFUSED);
    free(accepted);
    accepted = mem_printf("%s,\"accept_foreign\":true", args);
    lab_do(lab, &other, "recover", accepted);
    lab_sql_is(lab, &other, "select pg_is_in_recovery()", "t");
    free(accepted);
    free(differential);
    free(args);
}

/* A tablespace outside is refused unless it is sent elsewhere. */
static void
tablespaces_are_not_shared(void **state)
{
    struct lab *lab = *state;
    lab->epoch = 500000;
    lab_do(lab, &mirr, "stop", "");
    char *create = mem_printf("create tablespace outside location '%s/ts'", lab->dir);
    tmpdir_do(lab->dir, "mkdir -m 700 $DIR/ts");
    lab_sql_is(lab, &prim, create, "");
    lab_sql_is(lab, &prim,
               "create table elsewhere tablespace outside as select generate_series(1, 5000) n",
               "");
    char *oid = lab_sql(lab, &prim, "select oid from pg_tablespace where spcname = 'outside'");
    char *args = lab_recover_args(lab, &prim, &mirr, "differential");
    lab_refused(lab, &mirr, "recover", args, ERR_REFUSED);
    char *same = mem_printf("%s,\"tablespaces\":[{\"oid\":\"%s\",\"target\":\"%s/ts\"}]", args, oid,
                            lab->dir);
    lab_refused(lab, &mirr, "recover", same, ERR_REFUSED);
    tmpdir_do(lab->dir, "mkdir -p -m 700 $DIR/taken/PG_15_202209061/5 && "
                        "echo precious >$DIR/taken/PG_15_202209061/5/20001");
    char *taken = mem_printf("%s,\"tablespaces\":[{\"oid\":\"%s\",\"target\":\"%s/taken\"}]", args,
                             oid, lab->dir);
    lab_refused(lab, &mirr, "recover", taken, ERR_REFUSED);
    tmpdir_do(lab->dir, "test -f $DIR/taken/PG_15_202209061/5/20001");
    assert_true(lab_has(lab, &mirr, "global/pg_control"));
    char *mapped = mem_printf("%s,\"tablespaces\":[{\"oid\":\"%s\",\"target\":\"%s/ts2\"}]", args,
                              oid, lab->dir);
    lab_do(lab, &mirr, "recover", mapped);
    lab_sql_is(lab, &mirr, "select count(*) from elsewhere", "5000");
    char *link = mem_printf("readlink $DIR/m/pg_tblspc/%s", oid);
    char *where = tmpdir_shell(lab->dir, link);
    assert_non_null(strstr(where, "/ts2"));
    /* Named again, it is the mirror's own. */
    lab_do(lab, &mirr, "stop", "");
    lab_do(lab, &mirr, "recover", mapped);
    lab_sql_is(lab, &mirr, "select count(*) from elsewhere", "5000");
    free(taken);
    free(where);
    free(link);
    free(mapped);
    free(same);
    free(args);
    free(oid);
    free(create);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(full_while_it_is_written),
        cmocka_unit_test(differential_after_a_crash),
        cmocka_unit_test(the_cache_of_a_crashed_one_is_not_trusted),
        cmocka_unit_test(killed_anywhere),
        cmocka_unit_test(others_are_kept_out),
        cmocka_unit_test(the_source_is_restarted),
        cmocka_unit_test(a_slow_target_is_waited_for),
        cmocka_unit_test(the_source_dies_at_the_end),
        cmocka_unit_test(what_was_taken_is_given_back),
        cmocka_unit_test(refuses_what_must_not_be_written),
        cmocka_unit_test(tablespaces_are_not_shared),
    };
    (void)argc;
    lab_user(argv);
    return cmocka_run_group_tests(tests, setup, lab_teardown);
}
