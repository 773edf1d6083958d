/*
 * Numbers in bytes: little-endian, at any address. What PostgreSQL writes to disk on the machines that
 * moonrise knows is little-endian.
 */
#ifndef MOONRISE_BASE_BYTES_H
#define MOONRISE_BASE_BYTES_H

#include <stdint.h>

static inline uint16_t
bytes_get16(const void *p)
{
    const uint8_t *b = p;
    return (uint16_t)(b[0] | b[1] << 8);
}

static inline uint32_t
bytes_get32(const void *p)
{
    const uint8_t *b = p;
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static inline uint64_t
bytes_get64(const void *p)
{
    const uint8_t *b = p;
    return bytes_get32(b) | (uint64_t)bytes_get32(b + 4) << 32;
}

static inline void
bytes_put16(void *p, uint16_t v)
{
    uint8_t *b = p;
    b[0] = (uint8_t)v;
    b[1] = (uint8_t)(v >> 8);
}

static inline void
bytes_put32(void *p, uint32_t v)
{
    bytes_put16(p, (uint16_t)v);
    bytes_put16((uint8_t *)p + 2, (uint16_t)(v >> 16));
}

static inline void
bytes_put64(void *p, uint64_t v)
{
    bytes_put32(p, (uint32_t)v);
    bytes_put32((uint8_t *)p + 4, (uint32_t)(v >> 32));
}

#endif
