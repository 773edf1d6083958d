/*
 * WAL as it comes in, looked at before it is written: whatever a server sends is at the right place, of its
 * system and timeline, in pages and segments of the sizes that it told. Records are not read: that is the
 * server's business who replays them, by their checksums. Private to engine/stream.
 */
#ifndef MOONRISE_ENGINE_STREAM_PAGES_H
#define MOONRISE_ENGINE_STREAM_PAGES_H

#include "moonrise/pg/lsn.h"

#include <stddef.h>
#include <stdint.h>

struct err;

#define PAGE_HEAD_BYTES 40 /* XLogLongPageHeaderData */

struct stream_pages {
    uint64_t system_identifier;
    uint32_t page_bytes, segment_bytes;
    uint32_t timeline; /* pages of earlier ones are part of its history */
    int major;         /* of the server, as the pages' magic number has it */
    lsn_t at;          /* of the next byte */
    uint8_t head[PAGE_HEAD_BYTES];
};

/* Takes the next bytes. ERR_FORMAT, with the page's position: nothing of them is to be kept. */
int pages_take(struct stream_pages *p, const uint8_t *bytes, size_t len, struct err *e);

#endif
