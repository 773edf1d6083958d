#include "moonrise/base/hash.h"

/* The widest vectors of the processor that runs it: half of the time of SSE2. */
#if __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif

struct hash128
hash_block(uint64_t seed, const void *bytes, size_t len)
{
    XXH128_hash_t h = XXH3_128bits_withSeed(bytes, len, seed);
    return (struct hash128){.low = h.low64, .high = h.high64};
}

char *
hash_text(char *buf, struct hash128 hash)
{
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < 16; i++) {
        buf[i] = digits[hash.high >> (60 - 4 * i) & 15];
        buf[16 + i] = digits[hash.low >> (60 - 4 * i) & 15];
    }
    buf[32] = '\0';
    return buf;
}
