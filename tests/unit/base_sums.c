/* Bytes, CRC-32C and XXH3-128 against values known from elsewhere. */
#include "../lib/tmpdir.h"

#include "moonrise/base/bytes.h"
#include "moonrise/base/crc32c.h"
#include "moonrise/base/hash.h"

static void
test_bytes(void **state)
{
    (void)state;
    uint8_t b[9] = {0};
    bytes_put64(b + 1, UINT64_C(0xF123456789ABCDEF));
    assert_int_equal(b[1], 0xEF);
    assert_int_equal(b[8], 0xF1);
    assert_true(bytes_get64(b + 1) == UINT64_C(0xF123456789ABCDEF));
    assert_int_equal(bytes_get32(b + 1), 0x89ABCDEF);
    assert_int_equal(bytes_get16(b + 1), 0xCDEF);
    bytes_put32(b + 1, 0xFFFFFFFE);
    bytes_put16(b + 1, 0x1234);
    assert_int_equal(bytes_get32(b + 1), 0xFFFF1234);
}

/* RFC 3720, B.4, and the check value of the CRC catalogue. */
static void
test_crc32c(void **state)
{
    (void)state;
    uint8_t zeros[32] = {0}, ones[32], up[32];
    memset(ones, 0xFF, sizeof(ones));
    for (int i = 0; i < 32; i++)
        up[i] = (uint8_t)i;
    uint32_t (*const sums[])(uint32_t, const void *, size_t) = {crc32c, crc32c_portable};
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(sums[i](0, zeros, 32), 0x8A9136AA);
        assert_int_equal(sums[i](0, ones, 32), 0x62A8AB43);
        assert_int_equal(sums[i](0, up, 32), 0x46DD794E);
        assert_int_equal(sums[i](0, "123456789", 9), 0xE3069283);
        assert_int_equal(sums[i](0, "", 0), 0);
    }
}

static void
test_crc32c_in_pieces_and_both_ways(void **state)
{
    (void)state;
    uint8_t bytes[257];
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)(i * 37 + 11);
    uint32_t whole = crc32c(0, bytes, sizeof(bytes));
    for (size_t cut = 0; cut <= sizeof(bytes); cut++) {
        uint32_t first = crc32c(0, bytes, cut);
        assert_int_equal(first, crc32c_portable(0, bytes, cut));
        assert_int_equal(crc32c(first, bytes + cut, sizeof(bytes) - cut), whole);
    }
}

/* Printed by xxh128sum; XXH3's own vectors use other bytes. */
static void
test_hash(void **state)
{
    (void)state;
    char text[HASH_TEXT_BYTES];
    assert_string_equal(hash_text(text, hash_block(0, "", 0)), "99aa06d3014798d86001c324468d497f");
    struct hash128 a = hash_block(0, "moonrise", 8);
    struct hash128 seeded = hash_block(1, "moonrise", 8);
    assert_true(hash_equal(a, hash_block(0, "moonrise", 8)));
    assert_false(hash_equal(a, seeded));
    assert_false(hash_equal((struct hash128){1, 2}, (struct hash128){1, 3}));
    assert_false(hash_equal((struct hash128){1, 2}, (struct hash128){0, 2}));
    assert_string_equal(hash_text(text, (struct hash128){.low = 0x2F, .high = 1}),
                        "0000000000000001000000000000002f");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_crc32c),
        cmocka_unit_test(test_crc32c_in_pieces_and_both_ways),
        cmocka_unit_test(test_hash),
    };
    return cmocka_run_group_tests_name("base_sums", tests, NULL, NULL);
}
