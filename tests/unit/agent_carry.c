/* Recoveries from a real primary that writes far more than its mirror's slot may hold back. */
#include "../../engine/agent/carry.h"
#include "../../engine/agent/deliver.h"
#include "agent_pair.h"

#define MAX_RATE      12000000
#define SLOT_MB       64
#define CARRIED_BYTES ((int64_t)48 << 20)

static int
setup(void **state)
{
    struct lab *lab = pair_setup(state, 2);
    lab_sql_is(lab, &prim, "alter system set max_wal_size = '48MB'", "");
    lab_sql_is(lab, &prim, "alter system set min_wal_size = '32MB'", "");
    lab_sql_is(lab, &prim, "alter system set checkpoint_completion_target = 0.1", "");
    lab_sql_is(lab, &prim, "create table rows (n int)", "");
    return 0;
}

/* About 18 MB of WAL a second, never more to make up for a pause, and rows that the mirror is compared by. */
static int
writer(struct lab *lab)
{
    tmpdir_write(
        lab->dir, "write.sql",
        "insert into rows select generate_series(1, 100);\n"
        "select length(pg_logical_emit_message(false, 'w', repeat('x', 300000))::text);\n");
    return pair_writer(lab, "-R 60 -L 200 -f $DIR/write.sql");
}

static void
are_equal(struct lab *lab)
{
    pair_is_equal(lab, "select (select sum(hashtextextended(a::text, 0)) from pgbench_accounts a), "
                       "(select count(*) from rows)");
}

static bool
carried_enough(const struct message *told)
{
    const char *wal = message_text(told, "wal", "");
    int64_t bytes = message_int(told, "wal_bytes", 0);
    fprintf(stderr, "carried: %s, %" PRId64 " MB\n", wal, bytes >> 20);
    return strcmp(wal, "carried") == 0 && bytes > CARRIED_BYTES;
}

/* What a watcher would see of the mirror while its WAL is carried, looked at until the recovery ends: the slot
 * has no holder before the mirror has it, and holds back little; its bound is kept at checkpoints. */
static void
looks_like_no_mirror(struct lab *lab, pid_t pid)
{
    static const char sql[] =
        "select count(*) filter (where a.application_name like 'moonrise carry%' and (r.slot_name "
        "is not null or s.sync_state <> 'async' or s.flush_lsn is not null)), "
        "(select pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint >> 20 "
        "from pg_replication_slots where slot_name = 'mr_slot_3'), "
        "count(*) filter (where a.application_name like 'moonrise carry%') "
        "from pg_stat_activity a join pg_stat_replication s on s.pid = a.pid "
        "left join pg_replication_slots r on r.active_pid = s.pid";
    int status, most_mb = 0, seen = 0;
    while (waitpid(pid, &status, WNOHANG) == 0) {
        int wrong = -1, mb = 0, here = 0;
        char *row = lab_sql(lab, &prim, sql);
        sscanf(row, "%d|%d|%d", &wrong, &mb, &here);
        free(row);
        assert_int_equal(wrong, 0);
        most_mb = mb > most_mb ? mb : most_mb;
        seen += here;
    }
    print_message("the slot held back %d MB at most\n", most_mb);
    assert_int_equal(pair_outcome(status), 0);
    assert_true(seen > 0 && most_mb < 2 * SLOT_MB);
}

static void
nothing_is_left(struct lab *lab)
{
    assert_false(lab_has(lab, &mirr, "moonrise.wal"));
    lab_sql_until(lab, &prim,
                  "select count(*) from pg_stat_activity where application_name like "
                  "'moonrise carry%' or application_name like 'moonrise recover%'",
                  "0");
    lab_sql_is(lab, &prim, "select slot_name, active from pg_replication_slots", "mr_slot_3|t");
}

/* A recovery of this type, in which the source's WAL is `wal`: held by its slot, or carried. */
static void
recovers_with(struct lab *lab, const char *type, const char *wal)
{
    char *args = lab_recover_args(lab, &prim, &mirr, type);
    struct message *out = lab_ok(lab, &mirr, "recover", args);
    assert_string_equal(message_text(out, "wal", ""), wal);
    message_free(out);
    free(args);
}

static void
a_slot_with_room_holds_it(void **state)
{
    recovers_with(*state, "full", "held");
}

/* Nor when the link breaks: WAL is received on from where it was. */
static void
a_small_slot_is_not_overtaken(void **state)
{
    struct lab *lab = *state;
    lab_do(lab, &mirr, "fence", "");
    pair_bound_slots(lab, SLOT_MB);
    int w = writer(lab);
    char *args = lab_recover_args(lab, &prim, &mirr, "full");
    pid_t pid = pair_recover(lab, &(struct pair_recovery){args, MAX_RATE, carried_enough});
    pair_await_carrying(lab);
    lab_sql_is(lab, &prim,
               "select pg_terminate_backend(pid, 10000) from pg_stat_replication "
               "where application_name = 'moonrise carry 3'",
               "t");
    looks_like_no_mirror(lab, pid);
    pair_end_writer(lab, w);
    nothing_is_left(lab);
    are_equal(lab);
    free(args);
}

/* The backup of a short copy ends before WAL was asked for again. */
static void
a_short_copy_goes_on_with_it(void **state)
{
    struct lab *lab = *state;
    lab_do(lab, &mirr, "fence", "");
    recovers_with(lab, "differential", "carried");
    nothing_is_left(lab);
}

/* A target that takes its time to replay: what is written meanwhile is carried on into its pg_wal. Its replay
 * asks first for a file that nobody has, and gets no answer for long. */
static void
it_replays_for_long(void **state)
{
    struct lab *lab = *state;
    lab_do(lab, &mirr, "fence", "");
    tmpdir_do(lab->dir, "mkfifo $DIR/hold");
    int w = writer(lab);
    char *args = lab_recover_args(lab, &prim, &mirr, "full");
    static const char before[] = "\"settings\":{";
    char *at = strstr(args, before) + sizeof before - 1;
    char *held = mem_printf("%.*s\"restore_command\":\"test -e %s/go || cat %s/hold; false\",%s",
                            (int)(at - args), args, lab->dir, lab->dir, at);
    pid_t pid = pair_recover(lab, &(struct pair_recovery){.args = held});
    pair_await_carrying(lab);
    char *lsn = lab_sql(lab, &prim, "select pg_current_wal_lsn() + 160000000::numeric");
    char *sql = mem_printf("select pg_current_wal_lsn() > '%s'", lsn);
    lab_sql_until(lab, &prim, sql, "t");
    lab_sql_is(lab, &prim, "checkpoint", "");
    lab_sql_is(lab, &prim, "select active, wal_status = 'lost' from pg_replication_slots", "f|f");
    tmpdir_do(lab->dir, "touch $DIR/go; timeout 30 sh -c \"echo >$DIR/hold\"");
    assert_int_equal(pair_recovered(pid), 0);
    pair_end_writer(lab, w);
    nothing_is_left(lab);
    are_equal(lab);
    free(sql);
    free(lsn);
    free(held);
    free(args);
}

/* Whole segments only, over what is there, and each marked as archived. */
static void
segments_are_delivered(void **state)
{
    (void)state;
    struct err e = {0};
    char *dir = tmpdir_make();
    tmpdir_do(dir, "mkdir $DIR/from $DIR/pg_wal; cd $DIR/from; echo one >000000010000000000000005; "
                   "echo two >000000010000000000000006; "
                   "echo half >000000010000000000000007.partial; "
                   "echo past >00000002.history; echo junk >$DIR/pg_wal/000000010000000000000006");
    char *from = mem_printf("%s/from", dir), *to = mem_printf("%s/pg_wal", dir);
    assert_int_equal(deliver_segments(from, to, &e), 0);
    char *now =
        tmpdir_shell(dir, "cd $DIR; LC_ALL=C ls from pg_wal pg_wal/archive_status; cat pg_wal/0*");
    assert_string_equal(now, "from:\n000000010000000000000007.partial\n00000002.history\n\n"
                             "pg_wal:\n000000010000000000000005\n000000010000000000000006\n"
                             "archive_status\n\npg_wal/archive_status:\n"
                             "000000010000000000000005.done\n000000010000000000000006.done\n"
                             "one\ntwo\n");
    free(now);
    /* To another file system it is copied. */
    char *other = mem_printf("/dev/shm/moonrise-%d", (int)getpid());
    assert_int_equal(mkdir(other, 0700), 0);
    assert_int_equal(deliver_segments(to, other, &e), 0);
    char *command =
        mem_printf("ls $DIR/pg_wal; cd %s; LC_ALL=C ls; cat 0*; rm -r %s", other, other);
    now = tmpdir_shell(dir, command);
    assert_string_equal(now, "archive_status\n000000010000000000000005\n"
                             "000000010000000000000006\narchive_status\none\ntwo\n");
    free(now);
    free(command);
    free(other);
    free(to);
    free(from);
    tmpdir_remove(dir);
}

static void
when_it_is_wanted(void **state)
{
    (void)state;
    const uint64_t gb = 1 << 30;
    assert_false(carry_is_wanted(&(struct source_wal){.held_bytes = 0, .left_bytes = UINT64_MAX}));
    assert_false(carry_is_wanted(&(struct source_wal){.held_bytes = gb, .left_bytes = 2 * gb}));
    assert_true(carry_is_wanted(&(struct source_wal){.held_bytes = 2 * gb, .left_bytes = gb}));
    assert_true(carry_is_wanted(&(struct source_wal){.held_bytes = 0, .left_bytes = gb / 8}));
}

int
main(int argc, char **argv)
{
    (void)argc;
    lab_user(argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(when_it_is_wanted),
        cmocka_unit_test(segments_are_delivered),
        cmocka_unit_test(a_slot_with_room_holds_it),
        cmocka_unit_test(a_small_slot_is_not_overtaken),
        cmocka_unit_test(a_short_copy_goes_on_with_it),
        cmocka_unit_test(it_replays_for_long),
    };
    return cmocka_run_group_tests(tests, setup, lab_teardown);
}
