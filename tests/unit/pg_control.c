/* Every field against pg_controldata: of a real server, and of control files full of noise, in which no
 * two fields can be mistaken for each other. */
#include "../lib/tmpdir.h"

#include "moonrise/base/bytes.h"
#include "moonrise/base/crc32c.h"
#include "moonrise/base/err.h"
#include "moonrise/base/io.h"
#include "moonrise/base/path.h"
#include "moonrise/pg/control.h"

#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

struct fixture {
    char *dir;
    char *path;
    struct err e;
};

static int
setup(void **state)
{
    struct fixture *f = mem_zalloc(sizeof(*f));
    f->dir = tmpdir_make();
    f->path = path_join(f->dir, "data/global/pg_control");
    *state = f;
    tmpdir_initdb(f->dir, "--data-checksums --wal-segsize=4");
    return 0;
}

static int
teardown(void **state)
{
    struct fixture *f = *state;
    tmpdir_stop(f->dir);
    tmpdir_remove(f->dir);
    free(f->path);
    free(f);
    return 0;
}

/* What pg_controldata says behind `label:`. */
static void
expect(const char *output, const char *label, const char *wanted)
{
    char *key = mem_printf("\n%s:", label);
    const char *at = strstr(output, key);
    if (!at)
        fail_msg("pg_controldata says nothing about %s", label);
    at += strlen(key);
    at += strspn(at, " ");
    char *got = mem_printf("%.*s", (int)strcspn(at, "\n"), at);
    if (strcmp(got, wanted) != 0)
        fail_msg("%s: we read \"%s\", pg_controldata \"%s\"", label, wanted, got);
    free(got);
    free(key);
}

static void
expect_number(const char *output, const char *label, int64_t wanted)
{
    char text[32];
    snprintf(text, sizeof(text), "%" PRId64, wanted);
    expect(output, label, text);
}

static void
expect_lsn(const char *output, const char *label, lsn_t wanted)
{
    char text[LSN_TEXT_BYTES];
    expect(output, label, lsn_format(text, wanted));
}

static void
expect_checkpoint(const char *out, const struct control *c)
{
    expect_lsn(out, "Latest checkpoint location", c->checkpoint_lsn);
    expect_lsn(out, "Latest checkpoint's REDO location", c->redo_lsn);
    expect_number(out, "Latest checkpoint's TimeLineID", c->timeline);
    expect_number(out, "Latest checkpoint's PrevTimeLineID", c->prev_timeline);
    expect(out, "Latest checkpoint's full_page_writes", c->full_page_writes ? "on" : "off");
    expect_lsn(out, "Minimum recovery ending location", c->min_recovery_lsn);
    expect_number(out, "Min recovery ending loc's timeline", c->min_recovery_timeline);
    expect_lsn(out, "Backup start location", c->backup_start_lsn);
    expect_lsn(out, "Backup end location", c->backup_end_lsn);
    expect(out, "End-of-backup record required", c->backup_end_required ? "yes" : "no");
    char when[64];
    time_t seconds = (time_t)c->checkpoint_time_s;
    struct tm tm;
    strftime(when, sizeof(when), "%c", gmtime_r(&seconds, &tm));
    expect(out, "Time of latest checkpoint", when);
}

static void
expect_settings(const char *out, const struct control *c)
{
    static const char *const levels[] = {"minimal", "replica", "logical"};
    expect(out, "wal_level setting", levels[c->wal_level]);
    expect(out, "wal_log_hints setting", c->wal_log_hints ? "on" : "off");
    expect_number(out, "max_connections setting", c->max_connections);
    expect_number(out, "max_worker_processes setting", c->max_worker_processes);
    expect_number(out, "max_wal_senders setting", c->max_wal_senders);
    expect_number(out, "max_prepared_xacts setting", c->max_prepared_xacts);
    expect_number(out, "max_locks_per_xact setting", c->max_locks_per_xact);
    expect_number(out, "Database block size", c->block_bytes);
    expect_number(out, "Blocks per segment of large relation", c->segment_blocks);
    expect_number(out, "WAL block size", c->wal_block_bytes);
    expect_number(out, "Bytes per WAL segment", c->wal_segment_bytes);
    expect_number(out, "Data page checksum version", c->checksum_version);
}

static void
expect_as_controldata(struct fixture *f)
{
    struct control c;
    if (control_read(&c, f->path, NULL, &f->e) != 0)
        fail_msg("%s", f->e.message);
    char *text = tmpdir_shell(f->dir, "TZ=UTC $PG/pg_controldata $DIR/data");
    char *out = mem_printf("\n%s", text);
    expect_number(out, "pg_control version number", c.control_version);
    expect_number(out, "Catalog version number", c.catalog_version);
    char sysid[32];
    snprintf(sysid, sizeof(sysid), "%" PRIu64, c.system_identifier);
    expect(out, "Database system identifier", sysid);
    expect(out, "Database cluster state", control_state_name(c.state));
    expect_checkpoint(out, &c);
    expect_settings(out, &c);
    free(out);
    free(text);
}

static void
test_real_server(void **state)
{
    struct fixture *f = *state;
    expect_as_controldata(f);
    tmpdir_do(f->dir, "printf 'wal_log_hints = on\\nmax_wal_senders = 7\\n"
                      "max_prepared_transactions = 3\\nwal_level = logical\\n' "
                      ">>$DIR/data/postgresql.conf");
    tmpdir_do(f->dir, TMPDIR_START);
    expect_as_controldata(f);
    struct control c;
    assert_int_equal(control_read(&c, f->path, NULL, &f->e), 0);
    assert_int_equal(c.state, CONTROL_IN_PRODUCTION);
    assert_int_equal(c.max_wal_senders, 7);
    assert_int_equal(c.max_connections, 23);
    assert_int_equal(c.wal_segment_bytes, 4 << 20);
    tmpdir_do(f->dir, TMPDIR_STOP);
    expect_as_controldata(f);
}

/* Noise in every byte, but for what would be refused or cannot be printed. */
static void
make_noise(uint8_t *image, uint64_t seed)
{
    uint64_t x = seed * UINT64_C(0x9E3779B97F4A7C15);
    for (int i = 0; i < 288; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        image[i] = (uint8_t)(x >> 32);
    }
    bytes_put32(image + 8, 1300);
    bytes_put32(image + 16, (uint32_t)(seed % 7));
    bytes_put64(image + 24, 1700000000 + seed);
    bytes_put64(image + 104, 1600000000 + seed * 1000);
    bytes_put32(image + 172, (uint32_t)(seed % 3));
    static const int flags[] = {56, 168, 176, 200, 248};
    for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++)
        image[flags[i]] = (uint8_t)(seed >> i & 1);
    bytes_put32(image + 216, 1024u << seed % 6);
    bytes_put32(image + 220, 131072 + (uint32_t)seed);
    bytes_put32(image + 224, 2048u << seed % 5);
    bytes_put32(image + 228, 1u << (20 + seed % 11));
    bytes_put32(image + 288, crc32c(0, image, 288));
}

static void
test_noise(void **state)
{
    struct fixture *f = *state;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        uint8_t image[CONTROL_FILE_BYTES] = {0};
        make_noise(image, seed);
        assert_int_equal(io_write_durable(f->path, image, sizeof(image), 0600, &f->e), 0);
        expect_as_controldata(f);
    }
}

static void
test_refuses(void **state)
{
    struct fixture *f = *state;
    struct control c;
    uint8_t good[CONTROL_FILE_BYTES], bad[CONTROL_FILE_BYTES];
    assert_int_equal(control_read(&c, f->path, good, &f->e), 0);
    assert_int_equal(control_parse(&c, good, 100, &f->e), ERR_FORMAT);
    for (int bit = 0; bit < 288 * 8; bit++) {
        memcpy(bad, good, sizeof(bad));
        bad[bit / 8] ^= (uint8_t)(1 << bit % 8);
        int wanted = bit / 8 >= 8 && bit / 8 < 12 ? ERR_VERSION : ERR_FORMAT;
        assert_int_equal(control_parse(&c, bad, sizeof(bad), &f->e), wanted);
    }
    memcpy(bad, good, sizeof(bad));
    bytes_put32(bad + 8, 1201);
    assert_int_equal(control_parse(&c, bad, sizeof(bad), &f->e), ERR_VERSION);
    assert_non_null(strstr(f->e.message, "1201"));
    assert_int_equal(control_read(&c, "/nowhere/pg_control", NULL, &f->e), ERR_NOTFOUND);
}

/* Sizes that later code divides by or multiplies with. */
static void
test_refuses_sizes(void **state)
{
    struct fixture *f = *state;
    static const struct {
        int at;
        uint32_t value;
    } cases[] = {{216, 0},          {216, 8191},     {216, 65536}, {220, 0},
                 {220, UINT32_MAX}, {224, 0},        {224, 3000},  {228, 0},
                 {228, 1 << 19},    {228, 1u << 31}, {16, 7}};
    struct control c;
    uint8_t good[CONTROL_FILE_BYTES], bad[CONTROL_FILE_BYTES];
    assert_int_equal(control_read(&c, f->path, good, &f->e), 0);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        memcpy(bad, good, sizeof(bad));
        bytes_put32(bad + cases[i].at, cases[i].value);
        bytes_put32(bad + 288, crc32c(0, bad, 288));
        assert_int_equal(control_parse(&c, bad, sizeof(bad), &f->e), ERR_FORMAT);
    }
}

struct tearing {
    const char *path;
    uint8_t images[2][CONTROL_FILE_BYTES];
    atomic_bool stop;
    atomic_int rounds;
};

/* Rewrites the file in two halves, as a server may be seen to do. */
static void *
tear(void *arg)
{
    struct tearing *t = arg;
    int fd = open(t->path, O_WRONLY | O_CLOEXEC);
    for (int i = 0; !atomic_load(&t->stop); i++) {
        if (pwrite(fd, t->images[i & 1], 100, 0) != 100 ||
            pwrite(fd, t->images[i & 1] + 100, CONTROL_FILE_BYTES - 100, 100) < 0)
            abort();
        atomic_store(&t->rounds, i);
    }
    close(fd);
    return NULL;
}

static void
test_torn_reads_are_repeated(void **state)
{
    struct fixture *f = *state;
    struct tearing t = {.path = f->path};
    make_noise(t.images[0], 3);
    make_noise(t.images[1], 4);
    assert_int_equal(io_write_durable(f->path, t.images[0], CONTROL_FILE_BYTES, 0600, &f->e), 0);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, tear, &t), 0);
    int failures = 0;
    for (int i = 0; i < 300 || atomic_load(&t.rounds) < 10000; i++) {
        struct control c;
        uint8_t image[CONTROL_FILE_BYTES];
        if (control_read(&c, f->path, image, &f->e) != 0)
            failures++;
        else if (memcmp(image, t.images[0], 292) && memcmp(image, t.images[1], 292))
            failures++;
    }
    atomic_store(&t.stop, true);
    pthread_join(thread, NULL);
    assert_int_equal(failures, 0);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_real_server, setup, teardown),
        cmocka_unit_test_setup_teardown(test_noise, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refuses, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refuses_sizes, setup, teardown),
        cmocka_unit_test_setup_teardown(test_torn_reads_are_repeated, setup, teardown),
    };
    return cmocka_run_group_tests_name("pg_control", tests, NULL, NULL);
}
