#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "../fuzz/frame.c"

#include "moonrise/base/bytes.h"

#include <string.h>

#define FUZZ_ROUNDS 20000

static void
add(struct str *out, int type, uint32_t id, const char *text)
{
    struct frame f = {.type = type, .id = id, .payload = text, .len = strlen(text)};
    frame_append(out, &f);
}

static void
test_round_trip_in_any_pieces(void **state)
{
    struct str bytes = STR_INIT;
    (void)state;
    add(&bytes, FRAME_HELLO, 0, "{\"protocol\":1}");
    add(&bytes, FRAME_PING, 0, "");
    add(&bytes, FRAME_CALL, 77, "{\"op\":\"hello\"}");
    for (size_t piece = 1; piece <= bytes.len; piece++) {
        struct frame_reader r = FRAME_READER_INIT;
        struct frame f;
        int seen = 0;
        for (size_t at = 0; at < bytes.len; at += piece) {
            size_t n = bytes.len - at < piece ? bytes.len - at : piece;
            frame_reader_feed(&r, bytes.data + at, n);
            while (frame_reader_next(&r, &f, NULL) == 1)
                seen++;
        }
        assert_int_equal(seen, 3);
        assert_int_equal(f.id, 77);
        assert_int_equal(f.type, FRAME_CALL);
        assert_memory_equal(f.payload, "{\"op\":\"hello\"}", f.len);
        frame_reader_done(&r);
    }
    str_free(&bytes);
}

static int
first_result(const void *bytes, size_t len)
{
    struct frame_reader r = FRAME_READER_INIT;
    struct frame f;
    frame_reader_feed(&r, bytes, len);
    int rc = frame_reader_next(&r, &f, NULL);
    frame_reader_done(&r);
    return rc;
}

static void
test_every_damaged_byte_is_seen(void **state)
{
    struct str bytes = STR_INIT;
    (void)state;
    add(&bytes, FRAME_CALL, 5, "{\"op\":\"fence\",\"args\":{}}");
    for (size_t i = 0; i < bytes.len; i++)
        for (int bit = 0; bit < 8; bit++) {
            bytes.data[i] = (char)(bytes.data[i] ^ (1 << bit));
            assert_int_not_equal(first_result(bytes.data, bytes.len), 1);
            bytes.data[i] = (char)(bytes.data[i] ^ (1 << bit));
        }
    assert_int_equal(first_result(bytes.data, bytes.len), 1);
    str_free(&bytes);
}

static void
test_length_beyond_the_limit(void **state)
{
    struct str bytes = STR_INIT;
    (void)state;
    add(&bytes, FRAME_CALL, 5, "{}");
    bytes_put32(bytes.data + 4, FRAME_PAYLOAD_BYTES + 1);
    /* Refused from the head alone, before that many bytes are gathered. */
    assert_int_equal(first_result(bytes.data, FRAME_HEAD_BYTES), ERR_PROTOCOL);
    bytes_put32(bytes.data + 4, 0xFFFFFFFF);
    assert_int_equal(first_result(bytes.data, FRAME_HEAD_BYTES), ERR_PROTOCOL);
    str_free(&bytes);
}

static void
test_greeting_before_the_first_frame(void **state)
{
    struct str bytes = STR_INIT;
    (void)state;
    str_puts(&bytes, "Welcome to sdw1 \x89 \x89M\nLast login: today\n");
    add(&bytes, FRAME_PING, 0, "");
    assert_int_equal(first_result(bytes.data, bytes.len), 1);
    str_puts(&bytes, "noise");
    add(&bytes, FRAME_PING, 0, "");
    struct frame_reader r = FRAME_READER_INIT;
    struct frame f;
    frame_reader_feed(&r, bytes.data, bytes.len);
    assert_int_equal(frame_reader_next(&r, &f, NULL), 1);
    assert_int_equal(frame_reader_next(&r, &f, NULL), ERR_PROTOCOL);
    assert_int_equal(frame_reader_next(&r, &f, NULL), ERR_PROTOCOL);
    frame_reader_done(&r);
    str_clear(&bytes);
    while (bytes.len <= FRAME_SKIP_BYTES)
        str_puts(&bytes, "nothing but noise\n");
    assert_int_equal(first_result(bytes.data, bytes.len), ERR_PROTOCOL);
    /* A frame that has come with it does not make it less. */
    add(&bytes, FRAME_PING, 0, "");
    assert_int_equal(first_result(bytes.data, bytes.len), ERR_PROTOCOL);
    str_free(&bytes);
}

static uint32_t
next_random(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

static void
test_fuzz(void **state)
{
    uint32_t seed = 20260101;
    struct str bytes = STR_INIT;
    (void)state;
    for (int round = 0; round < FUZZ_ROUNDS; round++) {
        str_clear(&bytes);
        char piece = (char)next_random(&seed);
        str_append(&bytes, &piece, 1);
        add(&bytes, FRAME_HELLO, 0, "{\"protocol\":1}");
        /* Damage inside of the JSON, under a right checksum, reaches the parser. */
        char text[] =
            "{\"op\":\"start\",\"args\":{\"a\":[1,2.5e3,\"\\u00e9x\"],\"b\":{\"c\":null}},"
            "\"list\":[\"t\",{\"u\":true},-9223372036854775808]}";
        for (uint32_t n = next_random(&seed) % 4; n > 0; n--)
            text[next_random(&seed) % (sizeof(text) - 1)] = (char)(1 + next_random(&seed) % 255);
        add(&bytes, FRAME_CALL, 9, text);
        if (round % 2)
            for (uint32_t n = next_random(&seed) % 4; n > 0; n--)
                bytes.data[next_random(&seed) % bytes.len] = (char)next_random(&seed);
        LLVMFuzzerTestOneInput((const uint8_t *)bytes.data, bytes.len - next_random(&seed) % 3);
    }
    str_free(&bytes);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip_in_any_pieces),
        cmocka_unit_test(test_every_damaged_byte_is_seen),
        cmocka_unit_test(test_length_beyond_the_limit),
        cmocka_unit_test(test_greeting_before_the_first_frame),
        cmocka_unit_test(test_fuzz),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
