/* Against pg_waldump, on WAL of a real server with small segments. */
#include "../lib/tmpdir.h"

#include "moonrise/base/err.h"
#include "moonrise/base/io.h"
#include "moonrise/base/path.h"
#include "moonrise/pg/control.h"
#include "moonrise/wal/record.h"

#include <fcntl.h>

struct fixture {
    char *dir;
    char *datadir;
    char *wal_dir;
    struct wal_source source;
    struct err e;
};

/* Records of all sizes: within a page, over pages, over segments, and a switch. */
#define WORK                                                                                       \
    "select pg_logical_emit_message(false, 'x', repeat('y', n * 37)) "                             \
    "from generate_series(1, 300) n; "                                                             \
    "select pg_logical_emit_message(false, 'x', repeat('z', 3000000)); "                           \
    "select pg_switch_wal(); create table t as select generate_series(1, 1000); checkpoint; "      \
    "update t set generate_series = 1"

static int
setup(void **state)
{
    struct fixture *f = mem_zalloc(sizeof(*f));
    struct control c;
    f->dir = tmpdir_make();
    f->datadir = path_join(f->dir, "data");
    f->wal_dir = path_join(f->datadir, "pg_wal");
    *state = f;
    tmpdir_initdb(f->dir, "--wal-segsize=1");
    tmpdir_do(f->dir, "echo 'wal_keep_size = 1GB' >>$DIR/data/postgresql.conf");
    tmpdir_do(f->dir, TMPDIR_START);
    tmpdir_do(f->dir, TMPDIR_PSQL "-c \"" WORK "\"");
    tmpdir_do(f->dir, TMPDIR_STOP);
    char *path = path_join(f->datadir, "global/pg_control");
    assert_int_equal(control_read(&c, path, NULL, &f->e), 0);
    free(path);
    f->source.system_identifier = c.system_identifier;
    f->source.timeline = c.timeline;
    f->source.page_bytes = c.wal_block_bytes;
    f->source.segment_bytes = c.wal_segment_bytes;
    wal_source_dir(&f->source, f->wal_dir);
    return 0;
}

static int
teardown(void **state)
{
    struct fixture *f = *state;
    tmpdir_stop(f->dir);
    tmpdir_remove(f->dir);
    free(f->wal_dir);
    free(f->datadir);
    free(f);
    return 0;
}

/* Where the record after `end` begins: behind the header when `end` is a page's boundary. */
static lsn_t
after(const struct fixture *f, lsn_t end)
{
    if (end % f->source.page_bytes != 0)
        return end;
    return end + (end % f->source.segment_bytes == 0 ? 40 : 24);
}

static lsn_t
lsn_behind(const char *line, const char *key)
{
    const char *at = strstr(line, key);
    assert_non_null(at);
    at += strlen(key);
    char *text = mem_printf("%.*s", (int)strcspn(at, ","), at);
    lsn_t lsn;
    assert_int_equal(lsn_parse(&lsn, text, NULL), 0);
    free(text);
    return lsn;
}

/* Follows our records and pg_waldump's lines together. Returns the last record's end. */
static lsn_t
walk(struct fixture *f, char *dump, int *count)
{
    struct wal_record r = {.end_lsn = 0};
    *count = 0;
    for (char *line = dump, *next; *line; line = next) {
        next = strchr(line, '\n') + 1;
        next[-1] = '\0';
        if (strncmp(line, "rmgr: ", 6) != 0)
            continue;
        lsn_t lsn = lsn_behind(line, "lsn: ");
        if (r.end_lsn && after(f, r.end_lsn) != lsn)
            fail_msg("a record ended at %llX, pg_waldump goes on with: %s",
                     (unsigned long long)r.end_lsn, line);
        if (wal_record_read(&r, &f->source, lsn, &f->e) != 0)
            fail_msg("%s; pg_waldump: %s", f->e.message, line);
        /* "len (rec/tot):     50/    50," */
        assert_int_equal(r.bytes, atoi(strchr(strstr(line, "tot):"), '/') + 1));
        assert_true(r.prev_lsn == lsn_behind(line, "prev "));
        assert_int_equal(r.rmgr == WAL_RMGR_XLOG, strncmp(line, "rmgr: XLOG ", 11) == 0);
        (*count)++;
    }
    return r.end_lsn;
}

static void
test_as_pg_waldump(void **state)
{
    struct fixture *f = *state;
    char *dump = tmpdir_shell(f->dir, "cd $DIR/data/pg_wal; $PG/pg_waldump $(ls | grep '^0' | "
                                      "sed -n '1p') $(ls | grep '^0' | tail -n 1) 2>&1 || true");
    int count;
    lsn_t end = walk(f, dump, &count);
    assert_true(count > 1000);
    free(dump);
    struct wal_record last;
    assert_int_equal(wal_shutdown_end(&last, f->datadir, &f->e), 0);
    assert_true(last.end_lsn == end);
    assert_int_equal(last.info, WAL_XLOG_CHECKPOINT_SHUTDOWN);
    /* There is nothing after it. */
    assert_int_equal(wal_record_read(&last, &f->source, after(f, end), &f->e), ERR_FORMAT);
}

/* pg_control holds a copy of its checkpoint record's data; no other record is taken for one. */
static void
test_checkpoint_is_that_of_the_control_file(void **state)
{
    struct fixture *f = *state;
    struct wal_record r;
    struct control c;
    uint8_t body[CONTROL_CHECKPOINT_BYTES];
    char *path = path_join(f->datadir, "global/pg_control");
    assert_int_equal(control_read(&c, path, NULL, &f->e), 0);
    free(path);
    assert_int_equal(wal_record_read(&r, &f->source, c.checkpoint_lsn, &f->e), 0);
    assert_true(wal_checkpoint_body(body, &r));
    assert_memory_equal(body, c.checkpoint_body, sizeof body);
    control_checkpoint_blank(body);
    assert_memory_not_equal(body, c.checkpoint_body, sizeof body);
    lsn_t prev_lsn = r.prev_lsn;
    assert_int_equal(wal_record_read(&r, &f->source, prev_lsn, &f->e), 0);
    assert_false(wal_checkpoint_body(body, &r));
}

/* The end is what a server calls its position before it writes anything more. */
static void
test_shutdown_end_is_where_the_next_start_goes_on(void **state)
{
    struct fixture *f = *state;
    struct wal_record last, first;
    assert_int_equal(wal_shutdown_end(&last, f->datadir, &f->e), 0);
    tmpdir_do(f->dir, TMPDIR_START);
    assert_int_equal(wal_shutdown_end(&first, f->datadir, &f->e), ERR_REFUSED);
    assert_non_null(strstr(f->e.message, "in production"));
    tmpdir_do(f->dir, TMPDIR_PSQL "-c checkpoint");
    tmpdir_do(f->dir, "$PG/pg_ctl -D $DIR/data -m immediate -w stop >/dev/null");
    assert_int_equal(wal_shutdown_end(&first, f->datadir, &f->e), ERR_REFUSED);
    assert_int_equal(wal_record_read(&first, &f->source, after(f, last.end_lsn), &f->e), 0);
    assert_true(first.prev_lsn == last.lsn);
}

/* At every byte of what was written, and beyond it. */
static void
test_ends_where_nothing_more_was_written(void **state)
{
    struct fixture *f = *state;
    struct wal_record last;
    bool before;
    assert_int_equal(wal_shutdown_end(&last, f->datadir, &f->e), 0);
    lsn_t page = last.lsn - last.lsn % f->source.page_bytes;
    for (lsn_t lsn = page; lsn < page + 3 * (lsn_t)f->source.page_bytes; lsn++) {
        assert_int_equal(wal_ends_before(&before, &f->source, lsn, &f->e), 0);
        if (before != (lsn >= last.end_lsn))
            fail_msg("byte %d of the page", (int)(lsn - page));
    }
    assert_int_equal(wal_ends_before(&before, &f->source, last.lsn + (64 << 20), &f->e), 0);
    assert_true(before);
}

/* One bit anywhere in the record, its padding aside, and it is none. */
static void
test_damage(void **state)
{
    struct fixture *f = *state;
    struct wal_record last, r;
    assert_int_equal(wal_shutdown_end(&last, f->datadir, &f->e), 0);
    char name[WAL_NAME_BYTES];
    char *path = path_join(f->wal_dir, wal_segment_name(name, 1, last.lsn, 1 << 20));
    int fd = open(path, O_RDWR | O_CLOEXEC);
    uint64_t at = last.lsn % (1 << 20);
    for (uint32_t bit = 0; bit < last.bytes * 8; bit++) {
        uint8_t byte, other;
        assert_int_equal(io_pread_full(fd, &byte, 1, at + bit / 8, &f->e), 1);
        other = byte ^ (uint8_t)(1 << bit % 8);
        assert_int_equal(io_pwrite_full(fd, &other, 1, at + bit / 8, &f->e), 0);
        int rc = wal_record_read(&r, &f->source, last.lsn, &f->e);
        if (rc != ERR_FORMAT && rc != ERR_NOTFOUND)
            fail_msg("bit %u: %d", bit, rc);
        assert_int_equal(io_pwrite_full(fd, &byte, 1, at + bit / 8, &f->e), 0);
    }
    assert_int_equal(wal_record_read(&r, &f->source, last.lsn, &f->e), 0);
    assert_int_equal(ftruncate(fd, (off_t)(at - at % 8192 + 100)), 0);
    assert_int_equal(wal_record_read(&r, &f->source, last.lsn, &f->e), ERR_FORMAT);
    close(fd);
    assert_int_equal(io_unlink_durable(path, &f->e), 0);
    assert_int_equal(wal_record_read(&r, &f->source, last.lsn, &f->e), ERR_NOTFOUND);
    free(path);
}

static void
test_wrong_place(void **state)
{
    struct fixture *f = *state;
    struct wal_record last, r;
    assert_int_equal(wal_shutdown_end(&last, f->datadir, &f->e), 0);
    struct wal_source other = f->source;
    other.system_identifier++;
    lsn_t first = last.lsn - last.lsn % (1 << 20);
    assert_int_equal(wal_record_read(&r, &other, first + 40, &f->e), ERR_FORMAT);
    assert_non_null(strstr(f->e.message, "system identifier"));
    assert_int_equal(wal_record_read(&r, &f->source, last.lsn + 4, &f->e), ERR_FORMAT);
    assert_int_equal(wal_record_read(&r, &f->source, first + 8, &f->e), ERR_FORMAT);
    other = f->source;
    other.timeline = 2;
    assert_int_equal(wal_record_read(&r, &other, last.lsn, &f->e), ERR_NOTFOUND);
    other = f->source;
    other.page_bytes = 4096;
    assert_int_equal(wal_record_read(&r, &other, first + 40, &f->e), ERR_FORMAT);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_as_pg_waldump, setup, teardown),
        cmocka_unit_test_setup_teardown(test_checkpoint_is_that_of_the_control_file, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_shutdown_end_is_where_the_next_start_goes_on, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(test_ends_where_nothing_more_was_written, setup, teardown),
        cmocka_unit_test_setup_teardown(test_damage, setup, teardown),
        cmocka_unit_test_setup_teardown(test_wrong_place, setup, teardown),
    };
    return cmocka_run_group_tests_name("wal_record", tests, NULL, NULL);
}
