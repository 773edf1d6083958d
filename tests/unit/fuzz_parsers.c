/* Every fuzz driver on mutations of good inputs; MOONRISE_CAMPAIGN=1 runs a hundred times as many. */
#include "../lib/tmpdir.h"

#include "../fuzz/conf.c"
#include "../fuzz/control.c"
#include "../fuzz/feed.c"
#include "../fuzz/label.c"
#include "../fuzz/pidfile.c"
#include "../fuzz/stream.c"
#include "../fuzz/timeline.c"
#include "../fuzz/wal_record.c"

#define ROUNDS 20000

struct seed {
    const void *bytes;
    size_t len;
};

struct noise {
    uint64_t x;
};

static uint32_t
draw(struct noise *n, uint32_t below)
{
    n->x ^= n->x << 13;
    n->x ^= n->x >> 7;
    n->x ^= n->x << 17;
    return below ? (uint32_t)(n->x >> 24) % below : 0;
}

static void
mutate_once(struct noise *n, struct str *s)
{
    static const uint8_t special[] = {0, 0xFF, '\n', '\'', '\\', '/', '-', '0', '9', 0x7F, 0x80};
    uint32_t at = draw(n, (uint32_t)s->len), len = draw(n, 9);
    len = len < s->len - at ? len : (uint32_t)s->len - at;
    switch (s->len ? draw(n, 6) : 3) {
    case 0:
        s->data[at] ^= (char)(1 << draw(n, 8));
        break;
    case 1:
        s->data[at] = (char)special[draw(n, sizeof(special))];
        break;
    case 2: /* cut something out */
        memmove(s->data + at, s->data + at + len, s->len - at - len);
        s->len -= len;
        break;
    case 3: { /* repeat something at the end */
        char *copy = mem_zalloc(len + 1);
        memcpy(copy, s->data + at, len);
        str_append(s, copy, len);
        free(copy);
        break;
    }
    case 4: /* cut the end off */
        s->len = draw(n, 10) ? s->len : at;
        break;
    default:
        if (s->len - at >= 4)
            bytes_put32(s->data + at, draw(n, 3) ? draw(n, UINT32_MAX) : UINT32_MAX - draw(n, 3));
    }
}

static void
run(void (*fuzz)(const uint8_t *, size_t), const struct seed *seeds, size_t count)
{
    struct noise n = {.x = UINT64_C(0x2545F4914F6CDD1D)};
    int rounds = getenv("MOONRISE_CAMPAIGN") ? 100 * ROUNDS : ROUNDS;
    for (int i = 0; i < rounds; i++) {
        const struct seed *seed = &seeds[draw(&n, (uint32_t)count)];
        struct str s = STR_INIT;
        str_append(&s, seed->bytes, seed->len);
        for (uint32_t m = draw(&n, 8); m > 0; m--)
            mutate_once(&n, &s);
        /* On the heap to the byte, so that the sanitizer sees a read behind the end. */
        uint8_t *exact = mem_alloc(s.len);
        memcpy(exact, s.data, s.len);
        fuzz(exact, s.len);
        free(exact);
        str_free(&s);
    }
}

#define TEXT(t)                                                                                    \
    {                                                                                              \
        t, sizeof(t) - 1                                                                           \
    }

static void
test_label(void **state)
{
    (void)state;
    static const struct seed seeds[] = {
        TEXT("START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n"
             "CHECKPOINT LOCATION: 0/2000060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\n"
             "START TIME: 2026-11-20 20:42:44 UTC\nLABEL: x\nSTART TIMELINE: 1\n"),
    };
    run(fuzz_label, seeds, 1);
}

static void
test_pidfile(void **state)
{
    (void)state;
    static const struct seed seeds[] = {
        TEXT("4711\n/data\n1700000000\n6000\n/tmp\n*\n 100663297         4\nready   \n"),
        TEXT("-1\n"),
    };
    run(fuzz_pidfile, seeds, 2);
}

static void
test_conf(void **state)
{
    (void)state;
    static const struct seed seeds[] = {
        TEXT("# x\nport = 5432\na.b = 'it''s \\\\ \\101'\nc on\ninclude_if_exists 'm.conf'\n"),
        TEXT("primary_conninfo = 'host=''a b'' port=1'\n"),
    };
    run(fuzz_conf, seeds, 2);
}

static void
test_timeline(void **state)
{
    (void)state;
    static const struct seed seeds[] = {
        TEXT("1\t0/3000148\tno recovery target specified\n\n2\t0/5000000\tx\n"), TEXT("")};
    run(fuzz_timeline, seeds, 2);
}

static void
test_control(void **state)
{
    (void)state;
    uint8_t image[296] = {1};
    bytes_put32(image + 8, 1300);
    bytes_put32(image + 16, CONTROL_IN_PRODUCTION);
    bytes_put32(image + 216, 8192);
    bytes_put32(image + 220, 131072);
    bytes_put32(image + 224, 8192);
    bytes_put32(image + 228, 16 << 20);
    bytes_put32(image + 288, crc32c(0, image, 288));
    struct control c;
    assert_int_equal(control_parse(&c, image, sizeof(image), NULL), 0);
    const struct seed seeds[] = {{image, sizeof(image)}};
    run(fuzz_control, seeds, 1);
}

static void
add_packed(struct str *out, enum frame_packing packing)
{
    char text[3000], packed[8192];
    struct frame_packer *packer = frame_packer_new();
    memset(text, 'a', sizeof(text));
    size_t n = frame_pack(packer, packing, packed, text, sizeof(text));
    assert_true(n > 0);
    str_append(out, packed, n);
    frame_packer_free(packer);
}

static void
test_feed(void **state)
{
    (void)state;
    struct str s[6] = {STR_INIT, STR_INIT, STR_INIT, STR_INIT, STR_INIT, STR_INIT};
    struct seed seeds[6];
    uint8_t hashes[2 * PATCH_HASH_BYTES] = {7}, *at;
    uint8_t page[FEED_HEAD_BYTES + FEED_MAP_BYTES + 3 * PATCH_UNIT_BYTES] = {0};
    struct feed_ask ask = {1, 1 << 20, 20000, 9000, "base/5", "16384", hashes};
    struct patch_answer answer = {.data = page + FEED_HEAD_BYTES + FEED_MAP_BYTES,
                                  .bytes = 20000,
                                  .differs = {true, false, true}};
    for (int i = 0; i < 6; i++)
        str_append(&s[i], &"\0\1\2\3\3\1"[i], 1);
    feed_put_ask(&s[0], &ask);
    str_append(&s[1], "\37\116\0\0\0\100\0\0", 8); /* 20000 bytes, of which 16384 are there */
    size_t len = feed_put_blocks(&at, &answer);
    str_append(&s[1], at, len);
    feed_put_dir(&s[2], &(struct patch_listed_dir){0, "", 0700, PATCH_DIR_COPY});
    feed_put_dir(&s[2], &(struct patch_listed_dir){0, "base", 0700, PATCH_DIR_COPY});
    feed_put_file(&s[2], &(struct patch_listed_file){"16384", 81920, 0600, 0});
    feed_put_file(&s[2], &(struct patch_listed_file){"16385", 0, 0600, 0});
    add_packed(&s[3], FRAME_LZ4);
    add_packed(&s[4], FRAME_ZSTD);
    /* Nothing of these bytes differs, of which all but the last one is there. */
    str_append(&s[5], "\37\116\0\0\37\116\0\0\0\0\0\0\37\116\0\0", 16);
    for (int i = 0; i < 6; i++)
        seeds[i] = (struct seed){s[i].data, s[i].len};
    run(fuzz_feed, seeds, 6);
    for (int i = 0; i < 6; i++)
        str_free(&s[i]);
}

static void
put_page(uint8_t *page, uint64_t address, uint32_t left)
{
    bytes_put16(page, 0xD110);
    bytes_put16(page + 2, (uint16_t)(address == 0 ? 2 : left ? 1 : 0));
    bytes_put32(page + 4, 1);
    bytes_put64(page + 8, address);
    bytes_put32(page + 16, left);
    if (address == 0) {
        bytes_put32(page + 32, FUZZ_SEGMENT_BYTES);
        bytes_put32(page + 36, FUZZ_PAGE_BYTES);
    }
}

/* One record of 1500 bytes from 40 on, over two pages. */
static void
make_wal(uint8_t *wal)
{
    enum { BYTES = 1500, FIRST = FUZZ_PAGE_BYTES - 40 };
    uint8_t record[BYTES];
    memset(record, 7, sizeof(record));
    memset(record, 0, 24);
    bytes_put32(record, BYTES);
    bytes_put32(record + 20, crc32c(crc32c(0, record + 24, BYTES - 24), record, 20));
    put_page(wal, 0, 0);
    memcpy(wal + 40, record, FIRST);
    put_page(wal + FUZZ_PAGE_BYTES, FUZZ_PAGE_BYTES, BYTES - FIRST);
    memcpy(wal + FUZZ_PAGE_BYTES + 24, record + FIRST, BYTES - FIRST);
}

static void
test_wal_record(void **state)
{
    (void)state;
    uint8_t wal[3 * FUZZ_PAGE_BYTES] = {0};
    make_wal(wal);
    const struct fuzz_wal place = {.bytes = wal, .len = sizeof(wal)};
    const struct wal_source source = {.read_page = fuzz_wal_page,
                                      .place = &place,
                                      .timeline = 1,
                                      .page_bytes = FUZZ_PAGE_BYTES,
                                      .segment_bytes = FUZZ_SEGMENT_BYTES};
    struct wal_record r;
    struct err e;
    if (wal_record_read(&r, &source, 40, &e) != 0)
        fail_msg("%s", e.message);
    assert_int_equal(r.end_lsn, FUZZ_PAGE_BYTES + 24 + 520);
    const struct seed seeds[] = {{wal, sizeof(wal)}, {wal, FUZZ_PAGE_BYTES}};
    run(fuzz_wal_record, seeds, 2);
}

/* Three pages in one message: the kind is the second byte, since the first says where messages are cut. */
static void
test_stream(void **state)
{
    (void)state;
    enum { HEAD = 26, LEN = HEAD + 3 * FUZZ_STREAM_PAGE_BYTES };
    uint8_t *bytes = mem_zalloc(LEN);
    bytes[0] = 255;
    bytes[1] = 'w';
    for (uint32_t i = 0; i < 2; i++) {
        uint8_t *page = bytes + HEAD + i * FUZZ_STREAM_PAGE_BYTES;
        bytes_put16(page, 0xD110);
        bytes_put16(page + 2, i == 0 ? 2 : 0);
        bytes_put32(page + 4, 1);
        bytes_put64(page + 8, FUZZ_STREAM_SEGMENT_BYTES + i * FUZZ_STREAM_PAGE_BYTES);
    }
    bytes_put64(bytes + HEAD + 24, 7);
    bytes_put32(bytes + HEAD + 32, FUZZ_STREAM_SEGMENT_BYTES);
    bytes_put32(bytes + HEAD + 36, FUZZ_STREAM_PAGE_BYTES);
    const uint8_t alive[19] = {20, 'k'};
    const struct seed seeds[] = {{bytes, LEN}, {bytes, HEAD + 30}, {alive, sizeof(alive)}};
    run(fuzz_stream, seeds, 3);
    free(bytes);
    static const struct seed names[] = {TEXT("000000010000000000000001"),
                                        TEXT("0000000100000000000000FF.gz.partial"),
                                        TEXT("000000010000000000000001.lz4")};
    run(fuzz_segment_name, names, 3);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_label),   cmocka_unit_test(test_pidfile),
        cmocka_unit_test(test_conf),    cmocka_unit_test(test_timeline),
        cmocka_unit_test(test_control), cmocka_unit_test(test_wal_record),
        cmocka_unit_test(test_stream),  cmocka_unit_test(test_feed),
    };
    return cmocka_run_group_tests_name("fuzz_parsers", tests, NULL, NULL);
}
