#include "moonrise/wire/pace.h"

#include "moonrise/base/str.h"

#include <stdlib.h>
#include <time.h>

/* Shorter payloads say nothing about the others, and are not worth a choice. */
#define PACE_LEAST_BYTES 4096
/* What is sent before the way is judged: several times what socket buffers and windows take without waiting. */
#define PACE_SPAN_BYTES (4u << 20)
/* A slow link is judged sooner. */
#define PACE_SPAN_NS 250000000
/* A sender that waits less than this share of its time is not held up by the link. */
#define PACE_BLOCKED_SHARE 0.1
/* Each packing is measured anew now and then: what comes next may be of another kind. */
#define PACE_TRIAL_EVERY 64
/* On a faster way nothing is tried: lz4 packs a byte in one to two nanoseconds. */
#define PACE_WAY_LEAST_NS 0.5
/* How much of an average a new figure is. */
#define PACE_NEW_SHARE 0.3
/* By how much a packing has to be better than none: figures are not exact. */
#define PACE_MARGIN 0.9

static int64_t
now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void
pace_init(struct pace *p, size_t most)
{
    *p = (struct pace){.packer = frame_packer_new(),
                       .room_bytes = FRAME_HEAD_BYTES + frame_pack_bound(most)};
    p->room = mem_alloc(p->room_bytes);
}

static void
blend(double *into, double figure)
{
    *into = *into > 0 ? *into + PACE_NEW_SHARE * (figure - *into) : figure;
}

/* Packs and measures. Returns 0 where that saves nothing. */
static size_t
pack(struct pace *p, enum frame_packing packing, const struct frame *f)
{
    int64_t from = now_ns();
    size_t n = frame_pack(p->packer, packing, p->room + FRAME_HEAD_BYTES, f->payload, f->len);
    blend(&p->packings[packing].cost, (double)(now_ns() - from) / (double)f->len);
    blend(&p->packings[packing].share, n ? (double)n / (double)f->len : 1);
    return n;
}

static void
choose(struct pace *p)
{
    double least = p->way * PACE_MARGIN;
    p->chosen = FRAME_PLAIN;
    for (int i = FRAME_LZ4; i < FRAME_PACKINGS; i++) {
        double cost = p->packings[i].cost + p->packings[i].share * p->way;
        if (p->packings[i].cost > 0 && cost < least) {
            least = cost;
            p->chosen = (enum frame_packing)i;
        }
    }
}

/* The packing for the next payload: one that was not measured yet, or, now and then, one that was not used for
 * long, unless it takes longer than sending does. */
static enum frame_packing
next_packing(struct pace *p)
{
    uint64_t turn = p->counted++ % PACE_TRIAL_EVERY;
    if (p->way <= PACE_WAY_LEAST_NS)
        return p->chosen;
    for (int i = FRAME_LZ4; i < FRAME_PACKINGS; i++)
        if (p->packings[i].cost <= 0)
            return (enum frame_packing)i;
    bool again = turn > 0 && turn < FRAME_PACKINGS && p->packings[turn].cost < p->way;
    return again ? (enum frame_packing)turn : p->chosen;
}

void
pace_begin(struct pace_frame *f)
{
    *f = (struct pace_frame){.began_ns = now_ns()};
}

void
pace_pack(struct pace *p, struct pace_frame *f)
{
    size_t n = 0;
    f->bytes = (const uint8_t *)f->frame.payload - FRAME_HEAD_BYTES;
    f->frame.packing = FRAME_PLAIN;
    if (f->frame.len >= PACE_LEAST_BYTES) {
        enum frame_packing packing = next_packing(p);
        if (packing != FRAME_PLAIN && (n = pack(p, packing, &f->frame)) > 0) {
            f->frame.packing = packing;
            f->frame.payload = p->room + FRAME_HEAD_BYTES;
            f->frame.len = n;
            f->bytes = p->room;
        }
    }
    f->len = FRAME_HEAD_BYTES + f->frame.len;
    frame_seal((void *)f->bytes, &f->frame);
}

void
pace_sent(struct pace *p, const struct pace_frame *f, int64_t blocked_ns)
{
    p->span_bytes += f->len;
    p->span_ns += now_ns() - f->began_ns;
    p->span_blocked_ns += blocked_ns;
    if (p->way > 0)
        choose(p);
    if (p->span_bytes < PACE_SPAN_BYTES && p->span_blocked_ns < PACE_SPAN_NS)
        return;
    /* Where it has waited, the link was busy all the while, also while the next payload was packed. */
    bool held_up = (double)p->span_blocked_ns > PACE_BLOCKED_SHARE * (double)p->span_ns;
    double way = (double)(held_up ? p->span_ns : p->span_blocked_ns) / (double)p->span_bytes;
    /* What buffers took at first says nothing about the link behind them, nor does what it was before. */
    if (way > 2 * p->way || way < p->way / 4)
        p->way = way;
    blend(&p->way, way);
    p->span_bytes = 0;
    p->span_ns = p->span_blocked_ns = 0;
    choose(p);
}

void
pace_done(struct pace *p)
{
    frame_packer_free(p->packer);
    free(p->room);
    *p = (struct pace){0};
}
