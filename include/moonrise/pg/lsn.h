/*
 * Positions in the write-ahead log: "16/B374D848".
 */
#ifndef MOONRISE_PG_LSN_H
#define MOONRISE_PG_LSN_H

#include <stddef.h>
#include <stdint.h>

struct err;

typedef uint64_t lsn_t;

#define LSN_TEXT_BYTES 18

/* Parses the usual text form. ERR_FORMAT. */
int lsn_parse(lsn_t *out, const char *text, struct err *e);

/* Writes the text form into buf (LSN_TEXT_BYTES) and returns it. */
char *lsn_format(char *buf, lsn_t lsn);

/* The name of the WAL segment file of `lsn` (25 bytes with its NUL), e.g. 000000010000000000000003. */
#define WAL_NAME_BYTES 25
char *wal_segment_name(char *buf, uint32_t timeline, lsn_t lsn, uint32_t wal_segment_bytes);

#endif
