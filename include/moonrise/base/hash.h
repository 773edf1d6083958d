/*
 * Hashes of blocks: XXH3, 128 bits, with a seed. Not secret: whoever knows the seed can make collisions,
 * so each run draws its own (users choose the content of pages). Any thread.
 */
#ifndef MOONRISE_BASE_HASH_H
#define MOONRISE_BASE_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct hash128 {
    uint64_t low;
    uint64_t high;
};

struct hash128 hash_block(uint64_t seed, const void *bytes, size_t len);

static inline bool
hash_equal(struct hash128 a, struct hash128 b)
{
    return a.low == b.low && a.high == b.high;
}

/* Writes 32 hexadecimal characters (the canonical form that xxh128sum prints) and a NUL into buf and
 * returns it. */
#define HASH_TEXT_BYTES 33
char *hash_text(char *buf, struct hash128 hash);

#endif
