/*
 * What the two ends of a copy read of each other: questions, answers, lists, packed payloads. The first byte
 * says which; an answer is read as that to a question about a range that its next eight bytes describe.
 */
#include "../lib/fuzz.h"

#include "../../engine/agent/feed.h"
#include "moonrise/base/bytes.h"
#include "moonrise/base/err.h"

#include <stdlib.h>
#include <string.h>

/* Whatever an answer says, nothing but the range is written, and what is missing of the target is there. */
static void
fuzz_blocks(const uint8_t *bytes, size_t len, struct err *e)
{
    if (len < 8)
        return;
    struct feed_ask ask = {.bytes = bytes_get32(bytes) % (4 * PATCH_UNIT_BYTES) + 1};
    ask.have_bytes = bytes_get32(bytes + 4) % (ask.bytes + 1);
    struct patch_answer answer = {.data = mem_alloc(ask.bytes)};
    struct frame_room room = {(void *)(bytes + 8), len - 8, len - 8};
    if (feed_get_blocks(&answer, &ask, &room, e) == 0 && !answer.gone) {
        must(answer.bytes <= ask.bytes);
        for (uint32_t i = 0; i < PATCH_RANGE_UNITS; i++) {
            must(i < patch_units(answer.bytes) || !answer.differs[i]);
            uint32_t end = (i + 1) * PATCH_UNIT_BYTES;
            end = end < answer.bytes ? end : answer.bytes;
            must(answer.differs[i] || i >= patch_units(answer.bytes) || end <= ask.have_bytes);
        }
    }
    free(answer.data);
}

static void
fuzz_packed(const uint8_t *bytes, size_t len, struct err *e)
{
    static const enum frame_packing packings[] = {FRAME_LZ4, FRAME_ZSTD};
    struct frame_packer *packer = frame_packer_new();
    uint8_t *room = mem_alloc(4096);
    for (int i = 0; i < 2; i++) {
        struct frame f = {
            .type = FRAME_BLOCKS, .packing = packings[i], .payload = bytes, .len = len};
        struct frame_room to = {.bytes = room, .room = 4096};
        must(frame_unpack(packer, &f, &to, e) != 0 || (to.len > 0 && to.len <= to.room));
    }
    free(room);
    frame_packer_free(packer);
}

static void
fuzz_feed(const uint8_t *bytes, size_t len)
{
    struct err e;
    struct feed_ask ask;
    struct patch_list *list = patch_list_new();
    uint8_t which = len ? bytes[0] % 4 : 0;
    const uint8_t *rest = len ? bytes + 1 : bytes;
    size_t left = len ? len - 1 : 0;
    if (which == 0 && feed_get_ask(&ask, rest, left, &e) == 0)
        must(ask.bytes > 0 && ask.bytes <= PATCH_RANGE_BYTES && patch_path_ok(ask.dir, ask.name));
    if (which == 1)
        fuzz_blocks(rest, left, &e);
    if (which == 2)
        feed_get_list(list, rest, left, &e);
    if (which == 3)
        fuzz_packed(rest, left, &e);
    patch_list_free(list);
}

FUZZ_DRIVER(fuzz_feed);
