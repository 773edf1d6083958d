/*
 * Compressed segments: gzip (zlib) and LZ4 frames, as pg_receivewal -Z writes them and gunzip and lz4 read
 * them. Private to engine/stream. Any thread.
 */
#ifndef MOONRISE_ENGINE_STREAM_CODEC_H
#define MOONRISE_ENGINE_STREAM_CODEC_H

#include "moonrise/stream/stream.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct codec;
struct err;
struct str;

/* What follows a segment's name: "", ".gz", ".lz4". */
const char *codec_suffix(enum stream_codec kind);

/* An encoder of one file (not of STREAM_PLAIN). level 0 is the library's own choice. ERR_LIMIT. */
int codec_new(struct codec **out, enum stream_codec kind, int level, struct err *e);

enum codec_step {
    CODEC_MORE,  /* may keep some of it back */
    CODEC_FLUSH, /* what was given so far can be read from the file */
    CODEC_END    /* and nothing follows */
};

/* Encodes bytes. codec_output has what is to be written next of the file, until the next call. ERR_LIMIT. */
int codec_put(struct codec *c, const void *bytes, size_t len, enum codec_step step, struct err *e);
const struct str *codec_output(const struct codec *c);

/* NULL is fine. */
void codec_free(struct codec *c);

#define CODEC_HEAD_BYTES 40

struct codec_content {
    uint64_t bytes; /* what the file holds, decoded; counted until it is more than `limit` */
    bool whole;     /* its encoding is sound and has its end */
    uint8_t head[CODEC_HEAD_BYTES]; /* its first bytes; zeroes behind its end */
};

/* Reads a file of any kind. ERR_NOTFOUND, ERR_PERMISSION, ERR_IO; an encoding that is broken is no error. */
int codec_read(struct codec_content *out, const char *path, enum stream_codec kind, uint64_t limit,
               struct err *e);

#endif
