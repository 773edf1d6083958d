/*
 * Chooses how the payloads of one sender are packed, so that it is never slower than without. It measures what
 * each packing costs and saves on the payloads themselves, and what a byte costs on its way: a link that keeps
 * its sender waiting is worth more of the processor than one that does not. One thread.
 *
 * The cost of a byte is that of packing it plus that of sending what is left of it; the packing with the least
 * one is taken. They are added up, though packing and sending overlap where the link is slow: there the first is
 * small beside the second, and where the processor is what both wait for, they do not overlap.
 */
#ifndef MOONRISE_WIRE_PACE_H
#define MOONRISE_WIRE_PACE_H

#include "moonrise/wire/frame.h"

#include <stdint.h>

struct pace {
    struct frame_packer *packer;
    uint8_t *room; /* FRAME_HEAD_BYTES, and what was packed */
    size_t room_bytes;
    enum frame_packing chosen;
    struct {
        double cost;  /* nanoseconds for a byte; 0: not measured yet */
        double share; /* of a byte that is left */
    } packings[FRAME_PACKINGS];
    double way;       /* nanoseconds that a byte sent takes of its sender; 0: not measured yet */
    uint64_t counted; /* payloads */
    /* The span over which `way` is being measured. */
    uint64_t span_bytes;
    int64_t span_ns, span_blocked_ns;
};

/* For payloads of up to `most` bytes. Free what it holds with pace_done. */
void pace_init(struct pace *p, size_t most);

/* One frame: what the sender did before it was asked for counts as nobody's time. */
struct pace_frame {
    struct frame
        frame; /* set by the caller, all but the packing; FRAME_HEAD_BYTES of room are before the
                         * payload */
    const void
        *bytes; /* set by pace_pack: what to send, in the payload's own storage or the pace's */
    size_t len;
    int64_t began_ns;
};
void pace_begin(struct pace_frame *f);

/* Makes a frame of the payload, packed or not. */
void pace_pack(struct pace *p, struct pace_frame *f);

/* After it was sent: of that the sender has waited blocked_ns for room. */
void pace_sent(struct pace *p, const struct pace_frame *f, int64_t blocked_ns);

void pace_done(struct pace *p);

#endif
