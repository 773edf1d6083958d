#include "../lib/tmpdir.h"

#include "moonrise/base/err.h"
#include "moonrise/pg/pidfile.h"

#include <time.h>

static int
parse(struct pidfile *p, const char *text)
{
    struct err e;
    return pidfile_parse(p, text, strlen(text), &e);
}

static void
test_whole(void **state)
{
    (void)state;
    struct pidfile p;
    assert_int_equal(parse(&p, "4711\n/data/a b\n1700000000\n6000\n/tmp\n10.0.0.1\n"
                               " 100663297         4\nready   \n"),
                     0);
    assert_int_equal(p.pid, 4711);
    assert_string_equal(p.datadir, "/data/a b");
    assert_int_equal(p.start_s, 1700000000);
    assert_int_equal(p.port, 6000);
    assert_string_equal(p.socket_dir, "/tmp");
    assert_string_equal(p.listen, "10.0.0.1");
    assert_int_equal(p.shmem_key, 100663297);
    assert_int_equal(p.shmem_id, 4);
    assert_string_equal(p.status, "ready");
    assert_int_equal(p.lines, 8);
    pidfile_done(&p);
}

static void
test_growing(void **state)
{
    (void)state;
    struct pidfile p;
    assert_int_equal(parse(&p, "-17"), 0);
    assert_int_equal(p.pid, -17);
    assert_string_equal(p.status, "");
    assert_int_equal(p.lines, 1);
    pidfile_done(&p);
    assert_int_equal(parse(&p, "17\n/d\n1700000000\n6000\n\n\n"), 0);
    assert_string_equal(p.socket_dir, "");
    assert_int_equal(p.shmem_key, 0);
    pidfile_done(&p);
    assert_int_equal(parse(&p, "17\n/d\n1700000000\n6000\n\n\n\nstarting\n"), 0);
    assert_int_equal(p.shmem_key, 0);
    assert_string_equal(p.status, "starting");
    pidfile_done(&p);
}

static void
test_refuses(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "\n",
        "x\n",
        "0\n",
        "12x\n",
        "99999999999",
        "1\n/d\nx\n",
        "1\n/d\n1\nport\n",
        "1\n/d\n1\n99999\n",
        "1\n/d\n1\n1\n\n\nx y\n",
        "1\n/d\n1\n1\n\n\n12\n",
        "1\n/d\n1\n1\n\n\n1 2 3\n",
    };
    struct pidfile p;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        if (parse(&p, bad[i]) != ERR_FORMAT)
            fail_msg("accepted: %s", bad[i]);
    pidfile_done(&p);
}

static void
test_real(void **state)
{
    (void)state;
    char *dir = tmpdir_make();
    struct pidfile p;
    struct err e;
    tmpdir_initdb(dir, "");
    char *datadir = mem_printf("%s/data", dir);
    assert_int_equal(pidfile_read(&p, datadir, &e), ERR_NOTFOUND);
    tmpdir_do(dir, TMPDIR_START);
    assert_int_equal(pidfile_read(&p, datadir, &e), 0);
    char *ids = tmpdir_shell(dir, "awk 'NR > 1 {print $1 \" \" $2}' /proc/sysvipc/shm");
    char *ours =
        mem_printf("%llu %llu\n", (unsigned long long)p.shmem_key, (unsigned long long)p.shmem_id);
    assert_non_null(strstr(ids, ours));
    assert_string_equal(p.datadir, datadir);
    assert_string_equal(p.socket_dir, dir);
    assert_string_equal(p.status, "ready");
    assert_string_equal(p.listen, "");
    assert_int_equal(p.port, 5432);
    assert_true(p.start_s <= (int64_t)time(NULL) && p.start_s > (int64_t)time(NULL) - 100);
    pidfile_done(&p);
    tmpdir_stop(dir);
    tmpdir_do(dir, ": >$DIR/data/postmaster.pid");
    assert_int_equal(pidfile_read(&p, datadir, &e), ERR_FORMAT);
    free(ours);
    free(ids);
    free(datadir);
    tmpdir_remove(dir);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole),
        cmocka_unit_test(test_growing),
        cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_real),
    };
    return cmocka_run_group_tests_name("pg_pidfile", tests, NULL, NULL);
}
