/*
 * The parts of a feeder (feeder.c). One thread, but for the one that carries out a call.
 */
#ifndef AGENT_FEEDER_H
#define AGENT_FEEDER_H

#include "moonrise/patch/patch.h"
#include "moonrise/wire/link.h"
#include "moonrise/wire/pace.h"
#include "order.h"
#include "source.h"

struct err;
struct message;
struct patch_list;
struct patch_source;

/* The files that are read for a patch of another host. */
struct feeder_blocks {
    struct patch_spec spec;
    struct patch_tablespace *spaces; /* texts owned, and spec.source_dir */
    struct patch_source *source;     /* NULL before "feed" */
    void *stream;
    void *file; /* the one that was asked for last, open, or NULL */
    struct str file_name;
    struct patch_list *list; /* between "list" and its being sent */
    uint8_t
        *buffer; /* a page, then PATCH_RANGE_BYTES: what stands before the data fits into that */
    struct pace pace;
};

struct feeder {
    struct link link;
    uint64_t seed;
    int64_t silence_ms;
    struct feeder_blocks blocks;
    atomic_int holder; /* a pidfd of the feeder that holds the backup, or -1 */
    /* The instance whose source it is, after the call "source". */
    struct message *args;
    struct agent_call call;
    struct order order;
    struct source source;
    bool has_source;
    atomic_bool cancel; /* the other end has gone: whatever call is carried out ends */
};

/* "feed" {datadir, tablespaces: [{oid, path}], holder: pid}: from there the questions are answered.
 * ERR_PROTOCOL, ERR_NOTFOUND, ... */
int feeder_feed(struct feeder *f, const struct message *args, struct err *e);

/* "source": opens the instance whose blocks are wanted. Its backup session lives as long as the feeder. */
int feeder_source(struct feeder *f, const struct message *args, struct message *out, struct err *e);

/* Any other call, one about that instance. ERR_PROTOCOL where there is none of this name. */
int feeder_source_call(struct feeder *f, const struct link_call *call, struct message *out,
                       struct err *e);

void feeder_source_done(struct feeder *f);

/* "list": on the call's thread, then sent from the feeder's own. */
int feeder_list(struct feeder *f, struct err *e);
int feeder_send_list(struct feeder *f, struct err *e);

/* Answers a FRAME_ASK. An error ends the feeder. */
int feeder_ask(struct feeder *f, const struct frame *frame, struct err *e);

/* Whether the feeder has ended that holds the backup: without it nobody wants the blocks any more. */
bool feeder_holder_gone(void *feeder);

void feeder_blocks_done(struct feeder_blocks *b);

#endif
