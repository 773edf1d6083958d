#include "../lib/tmpdir.h"

#include "moonrise/pg/datadir.h"

static const struct {
    const char *path;
    bool is_dir;
    enum datadir_class wanted;
} cases[] = {
    {"PG_VERSION", false, DATADIR_COPY},
    {"postgresql.conf", false, DATADIR_COPY},
    {"pg_hba.conf", false, DATADIR_COPY},
    {"base", true, DATADIR_COPY},
    {"base/5", true, DATADIR_COPY},
    {"base/5/PG_VERSION", false, DATADIR_COPY},
    {"base/5/pg_filenode.map", false, DATADIR_COPY},
    {"global/pg_filenode.map", false, DATADIR_COPY},
    {"pg_xact/0000", false, DATADIR_COPY},
    {"pg_tblspc", true, DATADIR_COPY},
    {"pg_stat", true, DATADIR_COPY},
    {"logical", true, DATADIR_COPY},
    {"pg_walfile", true, DATADIR_COPY},
    {"pg_wal_old/x", false, DATADIR_COPY},
    {"base/5/moonrise.conf", false, DATADIR_COPY},
    {"global/pg_control", false, DATADIR_CONTROL},
    {"global/pg_control.old", false, DATADIR_COPY},
    {"base/5/1259", false, DATADIR_RELATION},
    {"base/5/1259.17", false, DATADIR_RELATION},
    {"base/5/1259_fsm", false, DATADIR_RELATION},
    {"base/5/1259_vm.1", false, DATADIR_RELATION},
    {"base/5/1259_init", false, DATADIR_RELATION},
    {"global/1262", false, DATADIR_RELATION},
    {"pg_tblspc/16385/PG_15_202209061/5/2619", false, DATADIR_RELATION},
    {"base/5/t3_16384", false, DATADIR_DROP},
    {"base/5/t0_16384_fsm", false, DATADIR_DROP},
    {"base/5/t3_", false, DATADIR_COPY},
    {"base/5/pg_internal.init", false, DATADIR_DROP},
    {"global/pg_internal.init.4711", false, DATADIR_DROP},
    {"base/pgsql_tmp", true, DATADIR_DROP},
    {"lost+found", true, DATADIR_SKIP},
    {"lost+found/#12", false, DATADIR_SKIP},
    {"lost+found", false, DATADIR_COPY},
    {"lost", true, DATADIR_COPY},
    {"base/lost+found", true, DATADIR_COPY},
    {"pg_wal/lost+found", true, DATADIR_SKIP},
    {"pg_wal/lost+found/#12", false, DATADIR_SKIP},
    {"pg_wal/lost+found", false, DATADIR_DROP},
    {"pg_walx/lost+found", true, DATADIR_COPY},
    {"pg_stat_tmp/lost+found", true, DATADIR_DROP},
    {"base/pgsql_tmp/pgsql_tmp17.0", false, DATADIR_DROP},
    {"pg_tblspc/16385/PG_15_202209061/pgsql_tmp", true, DATADIR_DROP},
    {"pg_wal", true, DATADIR_EMPTY_DIR},
    {"pg_wal/000000010000000000000001", false, DATADIR_DROP},
    {"pg_wal/archive_status", true, DATADIR_DROP},
    {"pg_replslot", true, DATADIR_EMPTY_DIR},
    {"pg_replslot/mr_slot_3/state", false, DATADIR_DROP},
    {"pg_dynshmem", true, DATADIR_EMPTY_DIR},
    {"pg_notify", true, DATADIR_EMPTY_DIR},
    {"pg_serial", true, DATADIR_EMPTY_DIR},
    {"pg_snapshots", true, DATADIR_EMPTY_DIR},
    {"pg_stat_tmp", true, DATADIR_EMPTY_DIR},
    {"pg_subtrans", true, DATADIR_EMPTY_DIR},
    {"postgresql.auto.conf.tmp", false, DATADIR_DROP},
    {"postgresql.auto.conf.4711.tmp", false, DATADIR_DROP},
    {"postgresql.auto.conf.tmpl", false, DATADIR_COPY},
    {"current_logfiles", false, DATADIR_DROP},
    {"current_logfiles.tmp", false, DATADIR_DROP},
    {"backup_label", false, DATADIR_DROP},
    {"tablespace_map", false, DATADIR_DROP},
    {"backup_manifest", false, DATADIR_DROP},
    {"postgresql.auto.conf", false, DATADIR_SKIP},
    {"postmaster.pid", false, DATADIR_SKIP},
    {"postmaster.opts", false, DATADIR_SKIP},
    {"standby.signal", false, DATADIR_SKIP},
    {"recovery.signal", false, DATADIR_SKIP},
    {"moonrise.epoch", false, DATADIR_SKIP},
    {"moonrise.control", false, DATADIR_SKIP},
    {".s.PGSQL.6000", false, DATADIR_SKIP},
    {".s.PGSQL.6000.lock", false, DATADIR_SKIP},
    {"log", true, DATADIR_SKIP},
    {"log/postgresql.log", false, DATADIR_SKIP},
    {"logs/postgresql.log", false, DATADIR_COPY},
};

static void
test_classes(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int got = (int)datadir_classify(cases[i].path, cases[i].is_dir);
        if (got != (int)cases[i].wanted)
            fail_msg("%s: class %d, wanted %d", cases[i].path, got, (int)cases[i].wanted);
    }
}

static void
expect_relfile(const char *path, struct relfile wanted)
{
    struct relfile r;
    if (!relfile_parse(&r, path))
        fail_msg("%s is a relation file", path);
    assert_int_equal(r.tablespace, wanted.tablespace);
    assert_int_equal(r.database, wanted.database);
    assert_int_equal(r.relation, wanted.relation);
    assert_int_equal(r.segment, wanted.segment);
    assert_int_equal(r.fork, wanted.fork);
    assert_int_equal(r.temporary, wanted.temporary);
}

static void
test_relfile(void **state)
{
    (void)state;
    expect_relfile("global/1262", (struct relfile){.relation = 1262, .fork = 'm'});
    expect_relfile(
        "base/5/4294967295.12",
        (struct relfile){.database = 5, .relation = UINT32_MAX, .segment = 12, .fork = 'm'});
    expect_relfile("base/16384/2619_vm",
                   (struct relfile){.database = 16384, .relation = 2619, .fork = 'v'});
    expect_relfile(
        "pg_tblspc/9/PG_15_202209061/5/7_fsm.1",
        (struct relfile){.tablespace = 9, .database = 5, .relation = 7, .segment = 1, .fork = 'f'});
    expect_relfile("base/5/t12_7_init",
                   (struct relfile){.database = 5, .relation = 7, .fork = 'i', .temporary = true});
}

static void
test_no_relfile(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "base",
        "base/5",
        "base/5/",
        "base/5/0",
        "base/05/1",
        "base/5/01",
        "base/5/1.0",
        "base/5/1.",
        "base/5/1_xx",
        "base/5/1x",
        "base/5/1/2",
        "base/5/1_fsm_vm",
        "global/5/1",
        "pg_tblspc/1/5/6",
        "base/x/1",
        "base/5/t_1",
        "base/5/t1",
        "base/5/t1_",
        "base/5/4294967296",
        "other/5/1",
        "pg_tblspc/1/PG",
        "global/",
        "pg_tblspc/1/PG_15/5",
    };
    struct relfile r;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        if (relfile_parse(&r, bad[i]))
            fail_msg("\"%s\" is no relation file", bad[i]);
}

static void
test_unlogged(void **state)
{
    (void)state;
    static const char *const names[] = {"100",      "100.1", "1000",       "100_fsm",
                                        "100_init", "200",   "PG_VERSION", "t3_100"};
    size_t n = sizeof(names) / sizeof(names[0]);
    assert_true(datadir_unlogged("base/5/100", names, n));
    assert_true(datadir_unlogged("base/5/100.1", names, n));
    assert_true(datadir_unlogged("base/5/100_fsm", names, n));
    assert_false(datadir_unlogged("base/5/100_init", names, n));
    assert_false(datadir_unlogged("base/5/1000", names, n));
    assert_false(datadir_unlogged("base/5/200", names, n));
    assert_false(datadir_unlogged("base/5/PG_VERSION", names, n));
    assert_false(datadir_unlogged("base/5/100", NULL, 0));
}

/* What a real, busy data directory holds: every file that is a relation is known as one. */
static void
test_real_names(void **state)
{
    (void)state;
    char *dir = tmpdir_make();
    tmpdir_initdb(dir, "");
    char *list = tmpdir_shell(dir, "cd $DIR/data && find base global -type f -name '[0-9]*' | "
                                   "sort && echo END");
    int seen = 0;
    for (char *line = list, *next; strncmp(line, "END", 3) != 0; line = next) {
        next = strchr(line, '\n') + 1;
        next[-1] = '\0';
        struct relfile r;
        if (!relfile_parse(&r, line))
            fail_msg("%s is a relation file", line);
        seen++;
    }
    assert_true(seen > 500);
    free(list);
    tmpdir_remove(dir);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_classes),    cmocka_unit_test(test_relfile),
        cmocka_unit_test(test_no_relfile), cmocka_unit_test(test_unlogged),
        cmocka_unit_test(test_real_names),
    };
    return cmocka_run_group_tests_name("pg_datadir", tests, NULL, NULL);
}
