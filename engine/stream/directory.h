/*
 * What a directory of received WAL holds, and where it ends. Private to engine/stream. Any thread.
 */
#ifndef MOONRISE_ENGINE_STREAM_DIRECTORY_H
#define MOONRISE_ENGINE_STREAM_DIRECTORY_H

#include "moonrise/pg/lsn.h"
#include "moonrise/pg/timeline.h"
#include "moonrise/stream/stream.h"

#include <stdbool.h>
#include <stdint.h>

struct err;

/* A segment file's name: 24 hexadecimal digits, its codec's suffix, ".partial". */
struct segment_name {
    uint32_t timeline;
    lsn_t lsn; /* of its first byte */
    enum stream_codec codec;
    bool partial;
};

/* Reads a file's name; false when it is no segment's of this size. */
bool segment_name_read(struct segment_name *out, const char *name, uint32_t segment_bytes);

struct directory_spec {
    const char *path;
    uint32_t segment_bytes;
    uint64_t system_identifier;             /* the server's, */
    const struct timeline_history *history; /* and its past: what is not in it is passed over */
    void (*ignored)(void *arg, const char *name);
    void *arg;
};

struct directory_end {
    bool found;
    uint32_t timeline; /* only when found, */
    lsn_t lsn;         /* where the next segment begins, or the one that is half there */
};

/* Finds where the WAL of a directory ends: behind the highest whole segment, or at the beginning of a
 * partial one, as pg_receivewal does. A file whose content is not what its name says is told and passed
 * over. ERR_REFUSED (WAL of another system, or of a timeline later than the server's), ERR_IO, ... */
int directory_read(struct directory_end *out, const struct directory_spec *spec, struct err *e);

/* Moves a position on a timeline to where the server's history goes on there: the timeline may have ended
 * before it. ERR_REFUSED: the timeline is none of this history. */
int directory_follow(uint32_t *timeline, lsn_t *lsn, const struct directory_spec *spec,
                     struct err *e);

#endif
