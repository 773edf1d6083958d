/* The pieces of the WAL receiver that need no server: messages, pages, file names, codecs, where a directory
 * of WAL ends. */
#include "../lib/tmpdir.h"

#include "../../engine/stream/codec.h"
#include "../../engine/stream/directory.h"
#include "../../engine/stream/message.h"
#include "../../engine/stream/pages.h"
#include "../../engine/stream/segment.h"
#include "../../engine/stream/standby_names.h"
#include "moonrise/base/bytes.h"
#include "moonrise/base/err.h"
#include "moonrise/base/io.h"

#include <fcntl.h>

#define SYSTEM  UINT64_C(7654321987654321)
#define MB      (1 << 20)
#define PAGE    8192
#define MAGIC15 0xD110

static void
test_messages(void **state)
{
    (void)state;
    struct stream_message m;
    struct err e;
    uint8_t wal[27] = {'w', 0, 0, 0, 1, 0x23, 0x45, 0x67, 0x89}, alive[18] = {'k'};
    assert_int_equal(message_read(&m, wal, sizeof(wal), &e), 0);
    assert_int_equal(m.kind, MESSAGE_WAL);
    assert_true(m.lsn == UINT64_C(0x123456789));
    assert_int_equal(m.len, 2);
    assert_ptr_equal(m.bytes, wal + 25);
    assert_int_equal(message_read(&m, wal, 25, &e), 0);
    assert_int_equal(m.len, 0);
    assert_int_equal(message_read(&m, wal, 24, &e), ERR_PROTOCOL);
    assert_int_equal(message_read(&m, alive, sizeof(alive), &e), 0);
    assert_false(m.reply);
    alive[17] = 1;
    assert_int_equal(message_read(&m, alive, sizeof(alive), &e), 0);
    assert_true(m.reply);
    assert_int_equal(message_read(&m, alive, 17, &e), ERR_PROTOCOL);
    assert_int_equal(message_read(&m, "", 0, &e), ERR_PROTOCOL);
    assert_int_equal(message_read(&m, "zzzzzzzzzzzzzzzzzzzzzzzzzzz", 27, &e), ERR_PROTOCOL);
    uint8_t status[STATUS_BYTES];
    message_status(status, &(struct stream_status){UINT64_C(0x0102030405060708), 9, true});
    const uint8_t begin[] = {'r', 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0};
    assert_memory_equal(status, begin, sizeof(begin));
    assert_int_equal(status[33], 1);
}

static void
test_standby_names(void **state)
{
    (void)state;
    static const struct {
        const char *names;
        bool counts;
    } cases[] = {
        {"", false},
        {"*", true},
        {"\"*\"", true},
        {"moonrise receivewal", false},
        {"\"moonrise receivewal\"", true},
        {"FIRST 1 (a, \"Moonrise ReceiveWAL\")", true},
        {"ANY 1(b,*)", true},
        {"\"mr_0_3_17\"", false},
        {"\"moonrise \"\"receivewal\"", false},
        {"\"unfinished", false},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        if (standby_names_have(cases[i].names, "moonrise receivewal") != cases[i].counts)
            fail_msg("%s", cases[i].names);
    assert_true(standby_names_have("\"a\"\"b\"", "a\"b"));
    assert_true(stream_is_mirrors_name("mr_0_3"));
    assert_true(stream_is_mirrors_name("MR_c_2_19"));
    assert_false(stream_is_mirrors_name("moonrise receivewal"));
    assert_true(stream_is_mirrors_slot("mr_slot_3"));
    assert_false(stream_is_mirrors_slot("archive"));
}

static void
test_segment_names(void **state)
{
    (void)state;
    struct segment_name n;
    assert_true(segment_name_read(&n, "00000002000000010000000F", 16 * MB));
    assert_int_equal(n.timeline, 2);
    assert_true(n.lsn == UINT64_C(0x10F000000));
    assert_int_equal(n.codec, STREAM_PLAIN);
    assert_false(n.partial);
    assert_true(segment_name_read(&n, "0000000200000001000000FF.gz.partial", 16 * MB));
    assert_int_equal(n.codec, STREAM_GZIP);
    assert_true(n.partial);
    assert_true(segment_name_read(&n, "000000020000000100000FFF.lz4", MB));
    assert_int_equal(n.codec, STREAM_LZ4);
    assert_true(segment_name_read(&n, "000000020000000100000003.partial", 1 << 30));
    static const char *const none[] = {
        "", "00000002.history", "00000002000000010000000", "00000002000000010000000g",
        "0000000200000001000000FF.partial.gz", "0000000200000001000000FF.zst",
        /* of smaller segments, or of no timeline */
        "000000020000000100000100", "000000000000000100000001", "0000000200000001000000FF.backup"};
    for (size_t i = 0; i < sizeof(none) / sizeof(none[0]); i++)
        if (segment_name_read(&n, none[i], 16 * MB))
            fail_msg("%s", none[i]);
}

/* The page at an address; `timeline` 0 leaves it blank. */
static void
put_page(uint8_t *page, lsn_t lsn, uint32_t timeline)
{
    for (int i = 0; i < PAGE; i++)
        page[i] = (uint8_t)(i * 7);
    memset(page, 0, 40);
    if (timeline == 0)
        return;
    bytes_put16(page, MAGIC15);
    bytes_put32(page + 4, timeline);
    bytes_put64(page + 8, lsn);
    if (lsn % MB == 0) {
        bytes_put16(page + 2, 2);
        bytes_put64(page + 24, SYSTEM);
        bytes_put32(page + 32, MB);
        bytes_put32(page + 36, PAGE);
    }
}

static int
take_pages(const uint8_t *wal, size_t len, size_t piece, struct err *e)
{
    struct stream_pages p = {.system_identifier = SYSTEM,
                             .page_bytes = PAGE,
                             .segment_bytes = MB,
                             .timeline = 2,
                             .major = 15,
                             .at = 5 * MB};
    for (size_t at = 0; at < len; at += piece) {
        int rc = pages_take(&p, wal + at, len - at < piece ? len - at : piece, e);
        if (rc < 0)
            return rc;
    }
    assert_true(p.at == 5 * MB + len);
    return 0;
}

static void
test_pages(void **state)
{
    (void)state;
    enum { LEN = 4 * PAGE - 100 };
    uint8_t *wal = mem_alloc(4 * PAGE);
    struct err e;
    for (uint32_t i = 0; i < 4; i++)
        put_page(wal + i * PAGE, 5 * MB + i * PAGE, i == 3 ? 0 : 1 + i % 2);
    static const size_t pieces[] = {1, 39, 41, 8191, PAGE, 3 * PAGE};
    for (size_t i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++)
        if (take_pages(wal, LEN, pieces[i], &e) < 0)
            fail_msg("%zu: %s", pieces[i], e.message);
    static const struct {
        uint32_t at;
        uint8_t value;
        const char *why;
    } spoils[] = {{24, 1, "another system identifier"}, {33, 1, "other sizes"},
                  {PAGE + 9, 1, "another address"},     {PAGE, 0x13, "another version"},
                  {PAGE + 4, 3, "another timeline"},    {PAGE + 2, 0x42, "unknown flags"},
                  {PAGE + 2, 2, "wrong kind of header"}};
    for (size_t i = 0; i < sizeof(spoils) / sizeof(spoils[0]); i++) {
        uint8_t good = wal[spoils[i].at];
        wal[spoils[i].at] = spoils[i].value;
        assert_int_equal(take_pages(wal, LEN, 1000, &e), ERR_FORMAT);
        assert_non_null(strstr(e.message, spoils[i].why));
        wal[spoils[i].at] = good;
    }
    /* A segment never begins blank. */
    put_page(wal, 5 * MB, 0);
    assert_int_equal(take_pages(wal, LEN, PAGE, &e), ERR_FORMAT);
    free(wal);
}

static void
write_encoded(const char *path, enum stream_codec kind, const struct str *bytes, bool whole)
{
    struct codec *c;
    struct str out = STR_INIT;
    assert_int_equal(codec_new(&c, kind, 1, NULL), 0);
    assert_int_equal(codec_put(c, bytes->data, bytes->len / 2, CODEC_MORE, NULL), 0);
    str_append(&out, codec_output(c)->data, codec_output(c)->len);
    size_t rest = bytes->len - bytes->len / 2;
    assert_int_equal(
        codec_put(c, bytes->data + bytes->len / 2, rest, whole ? CODEC_END : CODEC_FLUSH, NULL), 0);
    str_append(&out, codec_output(c)->data, codec_output(c)->len);
    assert_int_equal(io_write_durable(path, out.data, out.len, 0600, NULL), 0);
    codec_free(c);
    str_free(&out);
}

static void
test_codecs(void **state)
{
    (void)state;
    char *dir = tmpdir_make();
    char *path = mem_printf("%s/x", dir);
    struct str bytes = STR_INIT, file = STR_INIT;
    for (int i = 0; i < 100000; i++)
        str_printf(&bytes, "%u,", (unsigned)i * 7919);
    for (int kind = STREAM_GZIP; kind <= STREAM_LZ4; kind++) {
        struct codec_content c;
        write_encoded(path, (enum stream_codec)kind, &bytes, true);
        assert_int_equal(codec_read(&c, path, (enum stream_codec)kind, bytes.len, NULL), 0);
        assert_true(c.whole);
        assert_int_equal(c.bytes, bytes.len);
        assert_memory_equal(c.head, bytes.data, CODEC_HEAD_BYTES);
        /* It is read no further than it must be. */
        assert_int_equal(codec_read(&c, path, (enum stream_codec)kind, 1000, NULL), 0);
        assert_false(c.whole);
        /* Flushed, all of it is there, and it has no end. */
        write_encoded(path, (enum stream_codec)kind, &bytes, false);
        assert_int_equal(codec_read(&c, path, (enum stream_codec)kind, bytes.len, NULL), 0);
        assert_false(c.whole);
        assert_int_equal(c.bytes, bytes.len);
        /* Rubbish behind the end, or in the middle. */
        write_encoded(path, (enum stream_codec)kind, &bytes, true);
        assert_int_equal(io_read_file(&file, path, 1 << 24, NULL), 0);
        str_puts(&file, "x");
        assert_int_equal(io_write_durable(path, file.data, file.len, 0600, NULL), 0);
        assert_int_equal(codec_read(&c, path, (enum stream_codec)kind, bytes.len, NULL), 0);
        assert_false(c.whole);
        memset(file.data + file.len / 2, 0xEE, 500);
        assert_int_equal(io_write_durable(path, file.data, file.len - 1, 0600, NULL), 0);
        assert_int_equal(codec_read(&c, path, (enum stream_codec)kind, bytes.len, NULL), 0);
        assert_false(c.whole);
    }
    str_free(&bytes);
    str_free(&file);
    free(path);
    tmpdir_remove(dir);
}

struct fixture {
    char *dir;
    struct timeline_history history;
    struct directory_spec spec;
    int ignored;
};

static void
count_ignored(void *arg, const char *name)
{
    (void)name;
    ((struct fixture *)arg)->ignored++;
}

static int
setup(void **state)
{
    struct fixture *f = mem_zalloc(sizeof(*f));
    static const char text[] = "1\t0/450000\tx\n2\t0/680000\tx\n";
    f->dir = tmpdir_make();
    assert_int_equal(timeline_parse(&f->history, 3, text, sizeof(text) - 1, NULL), 0);
    f->spec = (struct directory_spec){.path = f->dir,
                                      .segment_bytes = MB,
                                      .system_identifier = SYSTEM,
                                      .history = &f->history,
                                      .ignored = count_ignored,
                                      .arg = f};
    *state = f;
    return 0;
}

static int
teardown(void **state)
{
    struct fixture *f = *state;
    timeline_history_done(&f->history);
    tmpdir_remove(f->dir);
    free(f);
    return 0;
}

/* A segment's file, all of it or its first `bytes`. */
static void
put_segment(struct fixture *f, const char *name, size_t bytes)
{
    struct segment_name n;
    assert_true(segment_name_read(&n, name, MB));
    char *path = mem_printf("%s/%s", f->dir, name);
    struct str content = STR_INIT;
    uint8_t page[PAGE];
    for (lsn_t at = 0; at < bytes; at += PAGE) {
        put_page(page, n.lsn + at, n.timeline);
        str_append(&content, page, PAGE);
    }
    if (n.codec == STREAM_PLAIN)
        assert_int_equal(io_write_durable(path, content.data, content.len, 0600, NULL), 0);
    else
        write_encoded(path, n.codec, &content, true);
    str_free(&content);
    free(path);
}

static void
ends_at(struct fixture *f, uint32_t timeline, lsn_t lsn)
{
    struct directory_end end;
    struct err e;
    if (directory_read(&end, &f->spec, &e) < 0)
        fail_msg("%s", e.message);
    assert_true(end.found);
    assert_int_equal(end.timeline, timeline);
    assert_int_equal(end.lsn, lsn);
}

static void
test_directory(void **state)
{
    struct fixture *f = *state;
    struct directory_end end;
    struct err e;
    assert_int_equal(directory_read(&end, &f->spec, &e), 0);
    assert_false(end.found);
    tmpdir_write(f->dir, "00000002.history", "");
    put_segment(f, "000000010000000000000001", MB);
    ends_at(f, 1, 2 * MB);
    put_segment(f, "000000010000000000000002.partial", PAGE);
    ends_at(f, 1, 2 * MB);
    put_segment(f, "000000010000000000000002.gz", MB);
    ends_at(f, 1, 3 * MB);
    put_segment(f, "000000010000000000000003.lz4", MB);
    ends_at(f, 1, 4 * MB);
    assert_int_equal(f->ignored, 0);
    /* Half a segment under a whole one's name, in each form. */
    put_segment(f, "000000010000000000000004", MB / 2);
    put_segment(f, "000000010000000000000004.gz", MB / 2);
    put_segment(f, "000000010000000000000004.lz4", MB / 2);
    ends_at(f, 1, 4 * MB);
    assert_int_equal(f->ignored, 3);
    /* Of one position the later timeline goes on. */
    put_segment(f, "000000020000000000000004.partial", MB);
    ends_at(f, 2, 4 * MB);
    /* What lies behind the end of its timeline is nobody's future. */
    put_segment(f, "000000010000000000000007", MB);
    ends_at(f, 2, 4 * MB);
}

static void
test_refused(void **state)
{
    struct fixture *f = *state;
    struct directory_end end;
    struct err e;
    put_segment(f, "000000040000000000000006", MB);
    assert_int_equal(directory_read(&end, &f->spec, &e), ERR_REFUSED);
    assert_non_null(strstr(e.message, "timeline 4"));
    f->spec.system_identifier = 5;
    assert_int_equal(directory_read(&end, &f->spec, &e), ERR_REFUSED);
    assert_non_null(strstr(e.message, "7654321987654321"));
    /* A partial segment tells, too, as soon as it has its first page. */
    tmpdir_do(f->dir, "cd $DIR && rm *6 && truncate -s 1M 000000010000000000000003.partial");
    assert_int_equal(directory_read(&end, &f->spec, &e), 0);
    put_segment(f, "000000010000000000000003.partial", PAGE);
    assert_int_equal(directory_read(&end, &f->spec, &e), ERR_REFUSED);
}

static void
test_follow(void **state)
{
    struct fixture *f = *state;
    static const struct {
        uint32_t timeline;
        lsn_t lsn;
        uint32_t timeline_out;
        lsn_t lsn_out;
    } cases[] = {{1, 2 * MB, 1, 2 * MB}, {1, 4 * MB, 1, 4 * MB}, {1, 5 * MB, 2, 4 * MB},
                 {1, 9 * MB, 2, 4 * MB}, {2, 7 * MB, 3, 6 * MB}, {3, 9 * MB, 3, 9 * MB}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint32_t timeline = cases[i].timeline;
        lsn_t lsn = cases[i].lsn;
        assert_int_equal(directory_follow(&timeline, &lsn, &f->spec, NULL), 0);
        assert_int_equal(timeline, cases[i].timeline_out);
        assert_int_equal(lsn, cases[i].lsn_out);
    }
    uint32_t timeline = 4;
    lsn_t lsn = MB;
    assert_int_equal(directory_follow(&timeline, &lsn, &f->spec, NULL), ERR_REFUSED);
}

static void
test_segments(void **state)
{
    struct fixture *f = *state;
    struct segment_spec spec = {.directory = f->dir,
                                .timeline = 1,
                                .begin_lsn = 3 * MB,
                                .bytes = MB,
                                .mode = 0640,
                                .sync = true};
    struct segment *s;
    char *bytes = mem_alloc(MB);
    memset(bytes, 'x', MB);
    /* Half of it keeps its name, and what an earlier run wrote is still there behind it. */
    for (size_t n = MB / 2; n >= MB / 4; n /= 2) {
        assert_int_equal(segment_open(&s, &spec, NULL), 0);
        assert_int_equal(segment_write(s, bytes, n, NULL), 0);
        assert_int_equal(segment_flush(s, NULL), 0);
        assert_int_equal(segment_close(s, NULL), 0);
    }
    tmpdir_do(f->dir,
              "cd $DIR && [ $(ls) = 000000010000000000000003.partial ] && "
              "[ $(cat *l | tr -d '\\0' | wc -c) = 524288 ] && [ $(stat -c %s%a *) = 1048576640 ]");
    /* Whole under another codec, it has one name and no other. */
    spec.codec = STREAM_GZIP;
    assert_int_equal(segment_open(&s, &spec, NULL), 0);
    assert_int_equal(segment_write(s, bytes, MB, NULL), 0);
    assert_int_equal(segment_written(s), MB);
    assert_int_equal(segment_close(s, NULL), 0);
    tmpdir_do(f->dir, "cd $DIR && [ $(ls) = 000000010000000000000003.gz ] && "
                      "[ $(zcat *.gz | tr -d x | wc -c) = 0 ]");
    struct err e;
    spec.codec = STREAM_PLAIN;
    tmpdir_do(f->dir, "truncate -s 2M $DIR/000000010000000000000003.partial");
    assert_int_equal(segment_open(&s, &spec, &e), ERR_FORMAT);
    tmpdir_do(f->dir, "cd $DIR && rm *l && ln -s /etc/passwd 000000010000000000000003.partial");
    assert_int_equal(segment_open(&s, &spec, &e), ERR_IO);
    free(bytes);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_messages),
        cmocka_unit_test(test_standby_names),
        cmocka_unit_test(test_segment_names),
        cmocka_unit_test(test_pages),
        cmocka_unit_test(test_codecs),
        cmocka_unit_test_setup_teardown(test_directory, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_follow, setup, teardown),
        cmocka_unit_test_setup_teardown(test_segments, setup, teardown),
    };
    return cmocka_run_group_tests_name("stream_parts", tests, NULL, NULL);
}
