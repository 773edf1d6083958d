/* Instances of this host: made, started, stopped, proven stopped, fenced, marked. Real servers. */
#include "../../engine/agent/aside.h"
#include "../../engine/agent/process.h"
#include "../../engine/agent/tree.h"

#include "agent_one.h"

#include <sys/wait.h>

static char *
datadir_of(struct lab *lab, const struct inst *i)
{
    char *path = mem_printf("%s/%s", lab->dir, i->name);
    char *real = realpath(path, NULL);
    free(path);
    return real;
}

static void
starts_and_stops(void **state)
{
    struct lab *lab = *state;
    lab_sql_is(lab, &one, "show data_checksums", "on");
    lab_sql_is(lab, &one, "show listen_addresses", "");
    struct message *word = lab_ok(lab, &one, "inspect", "\"measure\":true");
    assert_string_equal(message_text(word, "kind", ""), "datadir");
    assert_false(message_bool(word, "stopped", true));
    struct message *disk = lab_ok(lab, &one, "disk", "");
    assert_true(message_bool(disk, "writable", false));
    message_free(disk);
    assert_true(message_int(word, "data_bytes", 0) > 1000000);
    assert_true(message_bool(message_object(word, "postmaster"), "ours", false));
    assert_true(message_bool(message_object(word, "epoch"), "valid", false));
    message_free(word);

    struct message *again = lab_ok(lab, &one, "start", "\"listen\":\"\"");
    assert_true(message_bool(again, "already", false));
    message_free(again);

    struct message *end = lab_ok(lab, &one, "stop", "\"mode\":\"fast\"");
    assert_true(message_bool(end, "stopped", false));
    assert_false(message_bool(end, "fenced", true));
    assert_string_not_equal(message_text(end, "shutdown_end", ""), "");
    assert_int_equal(message_int(end, "timeline", 0), 1);
    message_free(end);
    word = lab_ok(lab, &one, "inspect", "");
    assert_true(message_bool(word, "stopped", false));
    assert_string_equal(message_text(message_object(word, "control"), "state", ""), "shut down");
    message_free(word);
    lab_do(lab, &one, "start", "\"listen\":\"\"");
}

/* A postmaster that is killed leaves a backend that goes on: not stopped, until it is fenced. */
static void
sees_who_outlives_a_killed_postmaster(void **state)
{
    struct lab *lab = *state;
    char *dir = datadir_of(lab, &one);
    struct err e = {0};
    struct process_list list;
    tmpdir_do(lab->dir, "($PG/psql -h $DIR/one -p 6001 -d postgres -Xqc 'select pg_sleep(60)' "
                        ">/dev/null 2>&1 &) </dev/null");
    lab_sql_until(lab, &one,
                  "select count(*) from pg_stat_activity where query like '%pg_sleep(60)%' and "
                  "state = 'active' and pid <> pg_backend_pid()",
                  "1");
    char *pid_text = lab_sql(lab, &one,
                             "select pid from pg_stat_activity where query = "
                             "'select pg_sleep(60)'");
    int backend = atoi(pid_text), postmaster = lab_postmaster(lab, &one);
    free(pid_text);
    assert_true(backend > 0);
    /* Stopped, it cannot notice that its postmaster has died. */
    kill(backend, SIGSTOP);
    kill(postmaster, SIGKILL);
    int64_t until = clock_ms() + 10000;
    do {
        assert_int_equal(process_scan(&list, dir, &e), 0);
        if (list.count == 1)
            break;
        process_list_done(&list);
    } while (clock_ms() < until);
    assert_int_equal(list.count, 1);
    assert_int_equal(list.items[0].pid, backend);
    process_list_done(&list);
    assert_int_equal(process_prove_stopped(dir, &e), ERR_RUNNING);
    struct message *word = lab_ok(lab, &one, "inspect", "");
    assert_false(message_bool(word, "stopped", true));
    message_free(word);

    struct message *done = lab_ok(lab, &one, "fence", "");
    assert_int_equal(message_count(done, "killed"), 1);
    assert_int_equal(atoi(message_text_item(done, "killed", 0)), backend);
    message_free(done);
    assert_int_equal(process_prove_stopped(dir, &e), 0);
    lab_do(lab, &one, "start", "\"listen\":\"\"");
    free(dir);
}

/* The shared memory alone gives a process away: here one whose files say nothing about the directory. */
static void
sees_the_shared_memory(void **state)
{
    struct lab *lab = *state;
    char *dir = datadir_of(lab, &one);
    struct process_list before, after;
    struct err e = {0};
    assert_int_equal(process_scan(&before, dir, &e), 0);
    assert_true(before.count > 3);
    tmpdir_do(lab->dir,
              "cp $DIR/one/postmaster.pid $DIR/pid; sed -i '7s/.*//' $DIR/one/postmaster.pid");
    assert_int_equal(process_scan(&after, dir, &e), 0);
    assert_int_equal(before.count, after.count); /* by directory and program alone */
    process_list_done(&after);
    tmpdir_do(lab->dir, "cp $DIR/pid $DIR/one/postmaster.pid; mkdir $DIR/two; "
                        "cp $DIR/pid $DIR/two/postmaster.pid");
    char *two = mem_printf("%s/two", lab->dir);
    assert_int_equal(process_scan(&after, two, &e), 0);
    assert_int_equal(before.count, after.count); /* by the segment alone */
    process_list_done(&after);
    tmpdir_do(lab->dir, "ipcrm -m $(awk 'NR == 7 { print $2 }' $DIR/pid)");
    assert_int_equal(process_scan(&after, two, &e), 0);
    assert_int_equal(before.count, after.count); /* also once somebody has removed it */
    process_list_done(&after);
    process_list_done(&before);
    free(two);
    free(dir);
}

/* A server whose program was replaced by an upgrade still works in its directory. */
static void
sees_a_deleted_program(void **state)
{
    struct lab *lab = *state;
    struct process_list list;
    struct err e = {0};
    int64_t until = clock_ms() + 5000;
    char *text =
        tmpdir_shell(lab->dir, "mkdir $DIR/old; cp $(command -v sleep) $DIR/postgres; cd $DIR/old; "
                               "($DIR/postgres 60 >/dev/null 2>&1 & echo $!) </dev/null");
    int pid = atoi(text);
    char *dir = mem_printf("%s/old", lab->dir);
    do {
        assert_int_equal(process_scan(&list, dir, &e), 0);
        if (list.count > 0)
            break;
        process_list_done(&list);
    } while (clock_ms() < until);
    tmpdir_do(lab->dir, "rm $DIR/postgres");
    process_list_done(&list);
    assert_int_equal(process_scan(&list, dir, &e), 0);
    assert_int_equal(list.count, 1);
    assert_int_equal(list.items[0].pid, pid);
    assert_non_null(strstr(list.items[0].exe, "(deleted)"));
    process_list_done(&list);
    assert_int_equal(process_kill_all(dir, NULL, clock_ms() + 5000, &e), 0);
    assert_false(process_alive(pid, 0));
    free(dir);
    free(text);
}

static void
strangers_are_left_alone(void **state)
{
    struct lab *lab = *state;
    char *dir = datadir_of(lab, &one);
    struct err e = {0};
    lab_do(lab, &one, "stop", "");
    pid_t shell = fork();
    if (shell == 0) {
        if (chdir(dir) == 0)
            execlp("tail", "tail", "-f", "/dev/null", (char *)NULL);
        _exit(1);
    }
    char *file = mem_printf("%d\n%s\n1\n6001\n\n\n  99 99\n", (int)shell, dir);
    char *path = mem_printf("%s/one", lab->dir);
    tmpdir_write(path, "postmaster.pid", file);
    assert_int_equal(process_prove_stopped(dir, &e), 0);
    lab_do(lab, &one, "fence", "");
    assert_int_equal(kill(shell, 0), 0);
    lab_do(lab, &one, "start", "\"listen\":\"\"");
    assert_int_equal(kill(shell, 0), 0);
    kill(shell, SIGKILL);
    waitpid(shell, NULL, 0);
    free(path);
    free(file);
    free(dir);
}

static void
a_hung_server_is_ended_after_its_deadline(void **state)
{
    struct lab *lab = *state;
    int pid = lab_postmaster(lab, &one);
    kill(pid, SIGSTOP);
    lab_refused(lab, &one, "stop", "\"mode\":\"smart\",\"wait_ms\":200", ERR_TIMEOUT);
    struct message *end = lab_ok(lab, &one, "stop", "\"mode\":\"fast\",\"wait_ms\":300");
    assert_true(message_bool(end, "fenced", false));
    assert_true(message_bool(end, "stopped", false));
    assert_null(message_text(end, "shutdown_end", NULL));
    message_free(end);
    lab_do(lab, &one, "start", "\"listen\":\"\"");
}

static void
a_marked_one_cannot_be_started(void **state)
{
    struct lab *lab = *state;
    struct message *done = lab_ok(lab, &one, "mark", "\"reason\":\"dbid 3 took over\"");
    assert_true(message_bool(done, "marked", false));
    assert_false(message_bool(done, "aside", true));
    message_free(done);
    lab_sql_is(lab, &one, "select 1", "1");
    lab_refused(lab, &one, "promote", "\"flush_lsn\":\"0/0\"", ERR_REFUSED);
    /* Stopped by somebody else it still has its pg_control, and is refused by its mark alone. */
    tmpdir_do(lab->dir, "$PG/pg_ctl -D $DIR/one -w -m fast stop >/dev/null");
    assert_true(lab_has(lab, &one, "global/pg_control"));
    lab_refused(lab, &one, "start", "\"listen\":\"\"", ERR_REFUSED);
    lab_do(lab, &one, "fence", "");
    assert_false(lab_has(lab, &one, "global/pg_control"));
    assert_true(lab_has(lab, &one, "moonrise.control"));
    lab_refused(lab, &one, "start", "\"listen\":\"\"", ERR_REFUSED);
    lab_refused(lab, &one, "adopt", "", ERR_REFUSED);
    /* Not even by moving the file back. */
    char *out = tmpdir_shell(lab->dir, "cp $DIR/one/moonrise.control $DIR/one/global/pg_control; "
                                       "$PG/pg_ctl -D $DIR/one -w -t 10 start 2>&1 || true; "
                                       "rm $DIR/one/global/pg_control");
    assert_null(strstr(out, "server started"));
    free(out);
    struct message *word = lab_ok(lab, &one, "inspect", "");
    assert_true(message_bool(message_object(word, "control"), "aside", false));
    assert_true(message_bool(message_object(word, "epoch"), "marked", false));
    message_free(word);
}

/* Somebody starts the server between the proof and the move: it goes back, and the server lives on. */
static void
pg_control_goes_back(void **state)
{
    struct lab *lab = *state;
    char *dir = datadir_of(lab, &one);
    struct err e = {0};
    assert_int_equal(aside_move(dir, &e), ERR_RUNNING);
    assert_true(lab_has(lab, &one, "global/pg_control"));
    assert_false(lab_has(lab, &one, "moonrise.control"));
    assert_false(lab_has(lab, &one, "moonrise.control.moving"));
    lab_sql_is(lab, &one, "checkpoint; select 1", "1");
    free(dir);
}

static void
aside_and_back(void **state)
{
    struct lab *lab = *state;
    char *dir = datadir_of(lab, &one);
    struct control before, after;
    struct err e = {0};
    bool aside;
    lab_do(lab, &one, "stop", "");
    assert_int_equal(aside_read(&before, &aside, dir, &e), 0);
    assert_false(aside);
    assert_int_equal(aside_move(dir, &e), 0);
    assert_int_equal(aside_move(dir, &e), 0);
    assert_int_equal(aside_read(&after, &aside, dir, &e), 0);
    assert_true(aside);
    assert_int_equal(before.checkpoint_lsn, after.checkpoint_lsn);
    /* Killed between its two steps, the move is completed by the next. */
    tmpdir_do(lab->dir, "tail -c +513 $DIR/one/moonrise.control >$DIR/one/moonrise.control.moving; "
                        "rm $DIR/one/moonrise.control");
    assert_int_equal(aside_read(&after, &aside, dir, &e), 0);
    assert_true(aside);
    assert_int_equal(aside_move(dir, &e), 0);
    assert_false(lab_has(lab, &one, "moonrise.control.moving"));
    assert_int_equal(aside_restore(dir, &e), 0);
    assert_false(lab_has(lab, &one, "moonrise.control"));
    lab_do(lab, &one, "start", "\"listen\":\"\"");
    free(dir);
}

static void
configures(void **state)
{
    struct lab *lab = *state;
    lab_do(lab, &one, "configure", "\"settings\":{\"work_mem\":\"5MB\"}");
    lab_sql_until(lab, &one, "show work_mem", "5MB");
    lab_refused(lab, &one, "configure", "\"settings\":{\"synchronous_standby_names\":\"x\"}",
                ERR_REFUSED);
    lab_refused(lab, &one, "configure", "\"standby\":true", ERR_RUNNING);
    lab_do(lab, &one, "stop", "");
    lab_do(
        lab, &one, "configure",
        "\"standby\":true,\"settings\":{\"work_mem\":false,\"primary_slot_name\":\"mr_slot_2\"}");
    assert_true(lab_has(lab, &one, "standby.signal"));
    struct message *text = lab_ok(lab, &one, "read", "\"name\":\"postgresql.auto.conf\"");
    assert_non_null(strstr(message_text(text, "text", ""), "primary_slot_name = 'mr_slot_2'"));
    message_free(text);
    lab_do(lab, &one, "configure", "\"standby\":false");
    lab_do(lab, &one, "start", "\"listen\":\"\"");
    lab_sql_is(lab, &one, "select pg_is_in_recovery()", "f");
    lab_sql_is(lab, &one, "show work_mem", "4MB");
}

static void
removes_only_what_is_its_own(void **state)
{
    struct lab *lab = *state;
    static const struct inst other = {.name = "other", .port = 6002, .dbid = 5};
    lab->epoch = 100;
    tmpdir_do(lab->dir, "mkdir -m 700 $DIR/other; echo precious >$DIR/other/file");
    lab_refused(lab, &other, "remove_datadir", "\"maker\":\"lab\"", ERR_REFUSED);
    lab_refused(lab, &other, "initdb", "", ERR_EXISTS);
    assert_true(lab_has(lab, &other, "file"));
    lab_refused(lab, &one, "remove_datadir", "\"maker\":\"lab\"", ERR_RUNNING);
    lab_do(lab, &one, "stop", "");
    lab_refused(lab, &one, "remove_datadir", "\"maker\":\"lab\",\"dbid\":3", ERR_REFUSED);
    assert_true(lab_has(lab, &one, "global/pg_control"));
    lab_do(lab, &one, "start", "\"listen\":\"\"");
    lab_refused(lab, &one, "remove_datadir", "\"maker\":\"lab\",\"fence\":true,\"dbid\":3",
                ERR_REFUSED);
    lab_sql_is(lab, &one, "select 1", "1");
    struct message *done = lab_ok(lab, &one, "remove_datadir", "\"maker\":\"lab\",\"fence\":true");
    assert_true(message_bool(done, "removed", false));
    message_free(done);
    assert_false(lab_has(lab, &one, "."));
    lab_do(lab, &one, "remove_datadir", "\"maker\":\"lab\""); /* it is gone, as was asked for */
    assert_false(lab_has(lab, &one, "."));
}

/* Another instance in the place of the one that was made there is left as it is, and its orders go on. */
static void
removes_only_what_its_caller_made(void **state)
{
    struct lab *lab = *state;
    lab->epoch = 100;
    lab_refused(lab, &one, "remove_datadir", "\"fence\":true", ERR_PROTOCOL);
    lab_refused(lab, &one, "remove_datadir", "\"fence\":true,\"maker\":\"\"", ERR_REFUSED);
    lab_refused(lab, &one, "remove_datadir",
                "\"fence\":true,\"maker\":\"other\",\"epoch\":999999999999999", ERR_REFUSED);
    lab_sql_is(lab, &one, "select 1", "1");
    lab_do(lab, &one, "checkpoint", "");
    struct message *word = lab_ok(lab, &one, "inspect", "");
    assert_string_equal(message_text(word, "maker", ""), "lab");
    message_free(word);
    tmpdir_do(lab->dir,
              "mv $DIR/one/moonrise.made $DIR/; echo \"maker = ''\" >$DIR/one/moonrise.made");
    lab_refused(lab, &one, "remove_datadir", "\"fence\":true,\"maker\":\"\"", ERR_REFUSED);
    tmpdir_do(lab->dir, "rm $DIR/one/moonrise.made");
    lab_refused(lab, &one, "remove_datadir", "\"fence\":true,\"maker\":\"lab\"", ERR_REFUSED);
    lab_sql_is(lab, &one, "select 1", "1");
    tmpdir_do(lab->dir, "mv $DIR/moonrise.made $DIR/one/");
}

/* A link is not followed to what it names, not even where a directory is to be removed. */
static void
links_are_not_followed(void **state)
{
    struct lab *lab = *state;
    struct err e = {0};
    tmpdir_do(lab->dir, "mkdir -p $DIR/far/deep $DIR/near; touch $DIR/far/deep/file; "
                        "ln -s $DIR/far $DIR/near/link; ln -s $DIR/far $DIR/link");
    char *near = mem_printf("%s/near", lab->dir), *link = mem_printf("%s/link", lab->dir);
    assert_int_equal(tree_remove(link, &e), 0);
    assert_int_not_equal(access(link, F_OK), 0);
    assert_int_equal(tree_remove(near, &e), 0);
    assert_int_not_equal(access(near, F_OK), 0);
    tmpdir_do(lab->dir, "test -e $DIR/far/deep/file && rm -r $DIR/far");
    free(link);
    free(near);
}

/* A removal is an order: one that comes late removes nothing, and one that was interrupted binds the rest. */
static void
a_late_removal_is_refused(void **state)
{
    struct lab *lab = *state;
    lab->epoch = 100;
    lab_do(lab, &one, "stop", "");
    lab_refused(lab, &one, "remove_datadir", "\"maker\":\"lab\",\"epoch\":99", ERR_STALE);
    lab_refused(lab, &one, "remove_datadir", "\"maker\":\"lab\",\"epoch\":100,\"step\":0",
                ERR_STALE);
    assert_true(lab_has(lab, &one, "global/pg_control"));
    tmpdir_do(lab->dir,
              "mkdir $DIR/one/stuck; touch $DIR/one/stuck/file; chmod 500 $DIR/one/stuck");
    lab_refused(lab, &one, "remove_datadir", "\"maker\":\"lab\",\"epoch\":200", ERR_PERMISSION);
    assert_false(lab_has(lab, &one, "global/pg_control"));
    tmpdir_do(lab->dir, "rm -f $DIR/one/moonrise.epoch"); /* it may have gone before */
    lab_refused(lab, &one, "start", "\"listen\":\"\",\"epoch\":201", ERR_REFUSED);
    lab_refused(lab, &one, "remove_datadir", "\"maker\":\"lab\",\"epoch\":199", ERR_STALE);
    assert_true(lab_has(lab, &one, "stuck/file"));
    tmpdir_do(lab->dir, "chmod 700 $DIR/one/stuck");
    lab_do(lab, &one, "remove_datadir", "\"maker\":\"lab\",\"epoch\":200");
    assert_false(lab_has(lab, &one, "."));
}

/* Killed at any point, initdb leaves what cannot be started, and a repeat makes it whole. */
static void
initdb_is_repeated(void **state)
{
    struct lab *lab = *state;
    static const struct inst fresh = {.name = "fresh", .port = 6003, .dbid = 9};
    for (int i = 0; i < 4; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            struct message *out;
            struct err e;
            _exit(lab_try(&out, lab, &(struct lab_call){&fresh, "initdb", ""}, &e) != 0);
        }
        lab_pause_ms(120 + 170 * i);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        struct message *word = lab_ok(lab, &fresh, "inspect", "");
        const char *kind = message_text(word, "kind", "");
        bool made = strcmp(kind, "datadir") == 0;
        if (!made)
            assert_true(strcmp(kind, "half-made") == 0 || strcmp(kind, "empty") == 0);
        message_free(word);
        if (made)
            return;
        lab_refused(lab, &fresh, "start", "\"listen\":\"\"", ERR_REFUSED);
    }
    lab_do(lab, &fresh, "initdb", "");
    lab_do(lab, &fresh, "adopt", "");
}

/* Only the adoption that has taken an instance gives it back; what it is not for leaves no trace. */
static void
is_given_back_by_its_own_adoption(void **state)
{
    struct lab *lab = *state;
    char *before = tmpdir_shell(lab->dir, "cat $DIR/one/moonrise.epoch");
    lab_refused(lab, &one, "disown", "\"adoption\":\"a1\",\"epoch\":999999", ERR_NOTFOUND);
    char *after = tmpdir_shell(lab->dir, "cat $DIR/one/moonrise.epoch");
    assert_string_equal(before, after);
    free(before);
    free(after);

    lab_do(lab, &one, "adopt", "\"adoption\":\"a1\"");
    struct message *word = lab_ok(lab, &one, "inspect", "");
    assert_string_equal(message_text(word, "adoption", ""), "a1");
    message_free(word);
    before = tmpdir_shell(lab->dir, "cat $DIR/one/moonrise.epoch");
    lab_refused(lab, &one, "disown", "\"adoption\":\"a2\",\"epoch\":999999", ERR_REFUSED);
    lab_refused(lab, &one, "disown", "\"epoch\":999999", ERR_PROTOCOL);
    after = tmpdir_shell(lab->dir, "cat $DIR/one/moonrise.epoch");
    assert_string_equal(before, after);
    free(before);
    free(after);
    lab_refused(lab, &one, "adopt", "\"adoption\":\"a2\"", ERR_REFUSED);
    lab_do(lab, &one, "checkpoint", "");

    lab_do(lab, &one, "disown", "\"adoption\":\"a1\",\"epoch\":999999");
    assert_false(lab_has(lab, &one, "moonrise.before"));
    assert_false(lab_has(lab, &one, "moonrise.epoch"));
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(starts_and_stops),
        cmocka_unit_test(sees_who_outlives_a_killed_postmaster),
        cmocka_unit_test(sees_the_shared_memory),
        cmocka_unit_test(sees_a_deleted_program),
        cmocka_unit_test(strangers_are_left_alone),
        cmocka_unit_test(a_hung_server_is_ended_after_its_deadline),
        cmocka_unit_test(pg_control_goes_back),
        cmocka_unit_test(aside_and_back),
        cmocka_unit_test(configures),
        cmocka_unit_test(initdb_is_repeated),
        cmocka_unit_test(links_are_not_followed),
        cmocka_unit_test_setup_teardown(a_marked_one_cannot_be_started, setup, lab_teardown),
        cmocka_unit_test_setup_teardown(is_given_back_by_its_own_adoption, setup, lab_teardown),
        cmocka_unit_test_setup_teardown(removes_only_what_is_its_own, setup, lab_teardown),
        cmocka_unit_test_setup_teardown(removes_only_what_its_caller_made, setup, lab_teardown),
        cmocka_unit_test_setup_teardown(a_late_removal_is_refused, setup, lab_teardown),
    };
    (void)argc;
    lab_user(argv);
    return cmocka_run_group_tests(tests, setup, lab_teardown);
}
