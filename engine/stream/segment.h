/*
 * The segment file that is being received: NAME.partial (NAME.gz.partial, NAME.lz4.partial) until its last
 * byte is durable, NAME from then on. Private to engine/stream. Any thread.
 */
#ifndef MOONRISE_ENGINE_STREAM_SEGMENT_H
#define MOONRISE_ENGINE_STREAM_SEGMENT_H

#include "moonrise/pg/lsn.h"
#include "moonrise/stream/stream.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct err;
struct segment;

struct segment_spec {
    const char *directory;
    uint32_t timeline;
    lsn_t begin_lsn;
    uint32_t bytes;
    enum stream_codec codec;
    int level;
    mode_t mode;
    bool sync;
};

/* Opens the segment's file to be written from its beginning. A plain one has its full size from then on, so
 * that a full disk is noticed here; what an earlier run has left in it is written over. ERR_SPACE,
 * ERR_PERMISSION, ERR_IO, ERR_FORMAT (it is no file of ours). */
int segment_open(struct segment **out, const struct segment_spec *spec, struct err *e);

/* Writes the next bytes, which are all of this segment. ERR_SPACE, ERR_IO. */
int segment_write(struct segment *s, const void *bytes, size_t len, struct err *e);

/* Makes what was written durable (unless the spec says not to) under its present name. */
int segment_flush(struct segment *s, struct err *e);

/* How many bytes of the segment were written. */
uint32_t segment_written(const struct segment *s);

/* Flushes; a whole one gets its name, and what other codecs have left of it is removed. Frees it, also when
 * this fails. NULL is fine. */
int segment_close(struct segment *s, struct err *e);

#endif
