/*
 * CRC-32C (Castagnoli), as PostgreSQL's pg_control and WAL records carry it (src/port/pg_crc32c.h).
 * Uses the processor's instruction where there is one. Any thread.
 */
#ifndef MOONRISE_BASE_CRC32C_H
#define MOONRISE_BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* The checksum of `len` bytes that follow those whose checksum is `crc` (0 at the beginning):
 * crc32c(crc32c(0, a, n), b, m) is the checksum of a and b together. */
uint32_t crc32c(uint32_t crc, const void *bytes, size_t len);

/* The same without special instructions; for machines that lack them. */
uint32_t crc32c_portable(uint32_t crc, const void *bytes, size_t len);

#endif
