#include "../lib/tmpdir.h"

#include "moonrise/base/err.h"
#include "moonrise/pg/label.h"

#define START "START WAL LOCATION: 16/2000028 (file 000000030000001600000002)\n"
#define POINT "CHECKPOINT LOCATION: 16/2000060\n"
#define REST                                                                                       \
    "BACKUP METHOD: streamed\nBACKUP FROM: standby\nSTART TIME: 2026-11-20 20:42:44 UTC\n"         \
    "LABEL: START TIMELINE: 9\nSTART TIMELINE: 3\n"

static int
parse(struct label *l, const char *text)
{
    struct err e;
    return label_parse(l, text, strlen(text), &e);
}

static void
test_whole(void **state)
{
    (void)state;
    struct label l;
    assert_int_equal(parse(&l, START POINT REST), 0);
    assert_true(l.start_lsn == UINT64_C(0x1602000028));
    assert_true(l.checkpoint_lsn == UINT64_C(0x1602000060));
    assert_int_equal(l.timeline, 3);
    assert_true(l.streamed && l.from_standby && !l.rewound);
}

static void
test_short(void **state)
{
    (void)state;
    struct label l;
    assert_int_equal(parse(&l, START POINT "BACKUP METHOD: pg_rewind\nBACKUP FROM: primary"), 0);
    assert_true(l.rewound && !l.streamed && !l.from_standby);
}

static void
test_refuses(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        START,
        POINT,
        "START WAL LOCATION: 16/2000028\n" POINT,
        "START WAL LOCATION: 16/2000028 (file 0000000300000016)\n" POINT,
        "START WAL LOCATION: x (file 000000030000001600000002)\n" POINT,
        START "CHECKPOINT LOCATION: 16\n",
        START POINT "START TIMELINE: 4\n",
        START POINT "START TIMELINE: 3x\n",
        " " START POINT,
    };
    struct label l;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        if (parse(&l, bad[i]) != ERR_FORMAT)
            fail_msg("accepted: %s", bad[i]);
    assert_int_equal(parse(&l, START POINT "INCREMENTAL FROM LSN: 0/28\n"), ERR_VERSION);
}

/* A real one, from the server's own function. */
static void
test_real(void **state)
{
    (void)state;
    char *dir = tmpdir_make();
    tmpdir_initdb(dir, "");
    tmpdir_do(dir, TMPDIR_START);
    tmpdir_do(dir, "printf \"select pg_backup_start('a b', true);\\n\\\\\\\\o $DIR/label\\n"
                   "select labelfile from pg_backup_stop(false);\\n\" >$DIR/sql");
    tmpdir_do(dir, TMPDIR_PSQL "-f $DIR/sql");
    char *text = tmpdir_shell(dir, "cat $DIR/label");
    char *redo = tmpdir_shell(dir, TMPDIR_PSQL "-c 'select redo_lsn from pg_control_checkpoint()'");
    tmpdir_stop(dir);
    struct label l;
    assert_int_equal(parse(&l, text), 0);
    char lsn[LSN_TEXT_BYTES];
    assert_memory_equal(redo, lsn_format(lsn, l.start_lsn), strlen(lsn));
    assert_true(l.streamed && !l.from_standby && l.checkpoint_lsn > l.start_lsn);
    free(redo);
    free(text);
    tmpdir_remove(dir);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole),
        cmocka_unit_test(test_short),
        cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_real),
    };
    return cmocka_run_group_tests_name("pg_label", tests, NULL, NULL);
}
