#include "../lib/tmpdir.h"

#include "moonrise/base/err.h"
#include "moonrise/pg/timeline.h"

static struct timeline_history
history(uint32_t timeline, const char *text)
{
    struct timeline_history h;
    struct err e;
    if (timeline_parse(&h, timeline, text, strlen(text), &e) != 0)
        fail_msg("%s", e.message);
    return h;
}

static void
test_parse(void **state)
{
    (void)state;
    struct timeline_history h =
        history(5, "1\t0/3000148\tno recovery target specified\n\n# comment\n3\t0/5000000\tx");
    assert_int_equal(h.count, 3);
    assert_int_equal(h.spans[1].timeline, 3);
    assert_true(h.spans[1].begin == 0x3000148 && h.spans[1].end == 0x5000000);
    assert_int_equal(h.spans[2].timeline, 5);
    assert_true(h.spans[2].begin == 0x5000000 && h.spans[2].end == TIMELINE_NO_END);
    assert_int_equal(timeline_at(&h, 0x100), 1);
    assert_int_equal(timeline_at(&h, 0x3000148), 1);
    assert_int_equal(timeline_at(&h, 0x3000149), 3);
    assert_int_equal(timeline_at(&h, 0x9000000), 5);
    timeline_history_done(&h);
    h = history(1, "");
    assert_int_equal(h.count, 1);
    assert_int_equal(timeline_at(&h, 0x9000000), 1);
    timeline_history_done(&h);
}

static void
test_newest(void **state)
{
    (void)state;
    uint32_t newest = 0;
    struct err e = {0};
    char *dir = tmpdir_make();
    tmpdir_do(dir, "mkdir $DIR/archive_status; touch $DIR/000000090000000000000001");
    assert_int_equal(timeline_newest(&newest, dir, &e), 0);
    assert_int_equal(newest, 1);
    tmpdir_do(dir, "cd $DIR; touch 00000002.history 0000001A.history 0000003.history "
                   "000000FF.history.tmp archive_status/000000EE.history.done");
    assert_int_equal(timeline_newest(&newest, dir, &e), 0);
    assert_int_equal(newest, 0x1a);
    tmpdir_do(dir, "rm -r $DIR/archive_status; cd $DIR; rm *");
    char *none = mem_printf("%s/none", dir);
    assert_int_equal(timeline_newest(&newest, none, &e), ERR_NOTFOUND);
    free(none);
    tmpdir_remove(dir);
}

static void
test_refuses(void **state)
{
    (void)state;
    static const char *const bad[] = {"x\t0/1\n",
                                      "1\n",
                                      "1\t0\n",
                                      "0\t0/1\n",
                                      "-1\t0/1\n",
                                      "2\t0/1\n1\t0/2\n",
                                      "1\t0/2\n2\t0/1\n",
                                      "1\t0/1\n1\t0/2\n",
                                      "4\t0/1\n",
                                      "5\t0/1\n",
                                      "99999999999\t0/1\n"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct timeline_history h;
        struct err e;
        if (timeline_parse(&h, 4, bad[i], strlen(bad[i]), &e) != ERR_FORMAT)
            fail_msg("accepted: %s", bad[i]);
        assert_null(h.spans);
    }
}

static void
expect_fork(struct timeline_history a, struct timeline_history b, uint32_t timeline, lsn_t end)
{
    for (int turn = 0; turn < 2; turn++) {
        struct timeline_span at;
        assert_int_equal(timeline_fork(&at, turn ? &b : &a, turn ? &a : &b, NULL), 0);
        assert_int_equal(at.timeline, timeline);
        assert_true(at.end == end);
    }
    timeline_history_done(&a);
    timeline_history_done(&b);
}

static void
test_fork(void **state)
{
    (void)state;
    expect_fork(history(1, ""), history(1, ""), 1, TIMELINE_NO_END);
    expect_fork(history(1, ""), history(2, "1\t0/10\tx\n"), 1, 0x10);
    expect_fork(history(2, "1\t0/10\tx\n"), history(3, "1\t0/20\tx\n"), 1, 0x10);
    /* The same number begun at two places is two timelines. */
    expect_fork(history(2, "1\t0/10\tx\n"), history(2, "1\t0/20\tx\n"), 1, 0x10);
    expect_fork(history(3, "1\t0/10\tx\n2\t0/30\tx\n"), history(2, "1\t0/10\tx\n"), 2, 0x30);
    expect_fork(history(3, "1\t0/10\tx\n"), history(4, "1\t0/10\tx\n3\t0/40\tx\n"), 3, 0x40);
    struct timeline_history a = history(2, ""), b = history(3, "");
    struct timeline_span at;
    assert_int_equal(timeline_fork(&at, &a, &b, NULL), ERR_NOTFOUND);
    timeline_history_done(&a);
    timeline_history_done(&b);
}

/* The file that a promotion writes. */
static void
test_real(void **state)
{
    (void)state;
    char *dir = tmpdir_make();
    struct timeline_history h;
    struct err e;
    tmpdir_initdb(dir, "");
    /* initdb's own WAL is of too low a level for a standby. */
    tmpdir_do(dir, TMPDIR_START);
    tmpdir_do(dir, TMPDIR_STOP);
    tmpdir_do(dir, "touch $DIR/data/standby.signal");
    tmpdir_do(dir, TMPDIR_START);
    tmpdir_do(dir, "$PG/pg_ctl -D $DIR/data -w promote >/dev/null");
    tmpdir_stop(dir);
    char *wal_dir = mem_printf("%s/data/pg_wal", dir);
    assert_int_equal(timeline_read(&h, wal_dir, 2, &e), 0);
    assert_int_equal(h.count, 2);
    assert_int_equal(h.spans[0].timeline, 1);
    assert_true(h.spans[1].begin > 0x1000000 && h.spans[1].begin < 0x2000000);
    timeline_history_done(&h);
    assert_int_equal(timeline_read(&h, wal_dir, 1, &e), 0);
    timeline_history_done(&h);
    assert_int_equal(timeline_read(&h, wal_dir, 0x1F, &e), ERR_NOTFOUND);
    assert_non_null(strstr(e.message, "0000001F.history"));
    free(wal_dir);
    tmpdir_remove(dir);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse), cmocka_unit_test(test_newest), cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_fork),  cmocka_unit_test(test_real),
    };
    return cmocka_run_group_tests_name("pg_timeline", tests, NULL, NULL);
}
