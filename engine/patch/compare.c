#include "moonrise/base/bytes.h"
#include "moonrise/base/hash.h"
#include "moonrise/patch/source.h"

#include <string.h>

uint32_t
patch_units(uint32_t bytes)
{
    return (bytes + PATCH_UNIT_BYTES - 1) / PATCH_UNIT_BYTES;
}

/* Where the unit that begins at `from` ends. */
static uint32_t
unit_end(uint32_t from, uint32_t bytes)
{
    return bytes - from < PATCH_UNIT_BYTES ? bytes : from + PATCH_UNIT_BYTES;
}

void
patch_answer_compare(struct patch_answer *answer, const struct patch_ask *ask)
{
    memset(answer->differs, 0, sizeof(answer->differs));
    if (ask->have_bytes >= answer->bytes && memcmp(answer->data, ask->have, answer->bytes) == 0)
        return;
    for (uint32_t from = 0; from < answer->bytes; from += PATCH_UNIT_BYTES) {
        uint32_t to = unit_end(from, answer->bytes);
        answer->differs[from / PATCH_UNIT_BYTES] =
            to > ask->have_bytes || memcmp(answer->data + from, ask->have + from, to - from) != 0;
    }
}

void
patch_hashes(uint8_t *out, uint64_t seed, const uint8_t *data, uint32_t bytes)
{
    for (uint32_t from = 0; from < bytes; from += PATCH_UNIT_BYTES) {
        struct hash128 h = hash_block(seed, data + from, unit_end(from, bytes) - from);
        bytes_put64(out, h.low);
        bytes_put64(out + 8, h.high);
        out += PATCH_HASH_BYTES;
    }
}

void
patch_answer_compare_hashes(struct patch_answer *answer, const struct patch_hashed *have)
{
    memset(answer->differs, 0, sizeof(answer->differs));
    for (uint32_t from = 0; from < answer->bytes; from += PATCH_UNIT_BYTES) {
        uint32_t unit = from / PATCH_UNIT_BYTES, to = unit_end(from, answer->bytes);
        uint8_t own[PATCH_HASH_BYTES];
        bool both = from < have->have_bytes && to == unit_end(from, have->have_bytes);
        if (both)
            patch_hashes(own, have->seed, answer->data + from, to - from);
        answer->differs[unit] =
            !both || memcmp(own, have->hashes + unit * PATCH_HASH_BYTES, sizeof(own)) != 0;
    }
}
