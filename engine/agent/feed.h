/*
 * What the two ends of a copy between hosts say to each other, in frames (moonrise/wire/frame.h). One end is the
 * agent on the target's host, the other a feeder that it has started on the source's (feeder.c): that answers,
 * and never begins.
 *
 * Calls are JSON, as those of an agent (FRAME_CALL, one at a time; feeder.c lists them). Blocks are binary:
 *
 *   FRAME_ASK     id: a number, one more than that of the question before
 *     root 4, offset 8, bytes 4, have 4      which bytes of the range from `offset` on; of how many of them the
 *                                            target has hashes
 *     dir NUL name NUL                       of the file, relative to the root
 *     hashes                                 XXH3-128 with the run's seed, 16 for each unit of `have`
 *   FRAME_BLOCKS  id: that of the question; may be packed
 *     kind 1 (enum feed_kind), zero 3, bytes 4    so many bytes of the range the source has
 *     with FEED_BLOCKS: which units differ, 16    a bit each, the lowest of the first byte is the first unit's
 *                       the units that do, one after the other
 *   FRAME_LIST    to the call "list", in its order; may be packed. Any number of
 *     'D' root 4, mode 4, kind 1, path NUL        a directory
 *     'F' size 8, mode 4, flags 1, name NUL       a file in the directory before it
 *
 * Questions are answered in their order. Whatever comes in is hostile: each field is checked here, and what a
 * list says is refused by patch_list_dir and patch_list_file as well.
 */
#ifndef AGENT_FEED_H
#define AGENT_FEED_H

#include "moonrise/patch/source.h"
#include "moonrise/wire/frame.h"

#include <stddef.h>
#include <stdint.h>

#define FEED_PROTOCOL 1

/* The longest silence that a feeder lets itself be told to bear. */
#define FEED_SILENCE_MAX_MS 86400000

/* Sizes of files that nobody has; beyond them arithmetic could overflow. */
#define FEED_FILE_BYTES ((uint64_t)1 << 46)

#define FEED_MAP_BYTES    (PATCH_RANGE_UNITS / 8)
#define FEED_HEAD_BYTES   8
#define FEED_BLOCKS_BYTES (FEED_HEAD_BYTES + FEED_MAP_BYTES + PATCH_RANGE_BYTES)

enum feed_kind {
    FEED_SAME,   /* nothing differs */
    FEED_BLOCKS, /* some units do */
    FEED_GONE,   /* the file has vanished */
    FEED_KINDS,
};

/* A question on its way. */
struct feed_ask {
    uint32_t root;
    uint64_t offset;
    uint32_t bytes;
    uint32_t have_bytes;
    const char *dir;
    const char *name;
    const uint8_t *hashes; /* PATCH_HASH_BYTES for each unit of have_bytes */
};

void feed_put_ask(struct str *out, const struct feed_ask *ask);

/* What `ask` points to is in the payload. ERR_PROTOCOL. */
int feed_get_ask(struct feed_ask *ask, const void *payload, size_t len, struct err *e);

/* Makes the payload of an answer around its data: *at is where it begins, somewhere in the FEED_HEAD_BYTES +
 * FEED_MAP_BYTES before answer->data, which must be there. Units that do not differ are squeezed out of the
 * data. Returns its length. */
size_t feed_put_blocks(uint8_t **at, struct patch_answer *answer);

/* Fills the answer to a question from a payload; answer->data has PATCH_RANGE_BYTES. ERR_PROTOCOL: also when a
 * unit is not sent that the target does not have. */
int feed_get_blocks(struct patch_answer *answer, const struct feed_ask *ask,
                    const struct frame_room *payload, struct err *e);

/* Bytes in a message: two hexadecimal digits each. feed_get_hex is false for anything else. */
void feed_put_hex(struct str *out, const void *bytes, size_t len);
bool feed_get_hex(struct str *out, const char *text);

void feed_put_dir(struct str *out, const struct patch_listed_dir *dir);
void feed_put_file(struct str *out, const struct patch_listed_file *file);

/* Adds what a payload lists. ERR_PROTOCOL, ERR_FORMAT, ERR_LIMIT. */
int feed_get_list(struct patch_list *l, const void *payload, size_t len, struct err *e);

#endif
