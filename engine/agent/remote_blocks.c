#include "remote_blocks.h"

#include "feed.h"
#include "moonrise/base/err.h"
#include "moonrise/base/str.h"
#include "moonrise/pg/control.h"
#include "moonrise/wire/message.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

/* A worker is silent while it writes, and waits for its disk; to that comes what --max-rate has it wait. A
 * feeder whose link is cut ends earlier, with the one that holds the backup. */
#define BLOCKS_SILENCE_MS 900000
/* For what is done at once, unless a disk hangs. */
#define BLOCKS_SHORT_MS 600000
/* What a list may take: 17 bytes a file, so many times more files than any host has. */
#define BLOCKS_LIST_BYTES ((uint64_t)512 << 20)
#define OPENED_TICK_MS    50 /* how soon a worker that waits for its stream is stopped */

/* A thread that opens a stream, since logging in takes longer than many a list. */
struct opener {
    pthread_t thread;
    struct blocks *blocks;
    struct blocks_stream *stream;
    int rc;
    struct err error;
};

struct blocks {
    struct patch_source base; /* first: the interface is a pointer to it */
    struct remote_blocks what;
    uint64_t seed;
    atomic_bool given_up;         /* nobody wants the streams any more */
    pthread_mutex_t lock;         /* all that follows: workers take the streams over */
    struct blocks_stream *listed; /* the one that has brought the list */
    struct opener openers[PATCH_THREADS_MAX - 1];
    int opener_count, openers_taken;
};

/* A file of the list; its names live as long as that. */
struct blocks_file {
    uint32_t root;
    const char *dir;
    const char *name;
};

/* One worker's questions. */
struct blocks_stream {
    struct blocks *blocks;
    struct remote remote;
    struct patch_link link;
    struct frame_packer *packer;
    uint8_t *room; /* FEED_BLOCKS_BYTES, for what is unpacked */
    struct str payload;
    struct feed_ask asked[PATCH_WINDOW_MAX]; /* a ring; of those without an answer; no hashes */
    uint32_t first, count;
    uint32_t next_id;
    uint64_t told; /* of the bytes moved: in the progress */
};

static struct message *
places_of(const struct remote_blocks *what)
{
    const struct patch_spec *spec = what->spec;
    struct message *m = message_new();
    if (what->control)
        message_set_int(m, "holder", what->control->pid);
    message_set_text(m, "datadir", spec->source_dir);
    for (int i = 0; i < spec->tablespace_count; i++) {
        struct message *space = message_new();
        message_set_text(space, "oid", spec->tablespaces[i].oid);
        message_set_text(space, "path", spec->tablespaces[i].source);
        message_append_take(m, "tablespaces", space);
    }
    return m;
}

/* How long a stream may be silent: at a low rate the ranges of all workers take their time one after another. */
static int64_t
silence_of(const struct patch_spec *spec)
{
    if (spec->max_rate == 0)
        return BLOCKS_SILENCE_MS;
    uint64_t bytes = (uint64_t)(patch_threads(spec) + 1) * PATCH_RANGE_BYTES;
    uint64_t waits_ms = bytes * 1000 / spec->max_rate;
    int64_t most = FEED_SILENCE_MAX_MS - BLOCKS_SILENCE_MS;
    return BLOCKS_SILENCE_MS + (waits_ms < (uint64_t)most ? (int64_t)waits_ms : most);
}

/* A feeder that knows the directories. */
static int
open_feeder(struct blocks *b, struct remote *r, const struct patch_link *link,
            const atomic_bool *cancel, struct err *e)
{
    struct remote_spec spec = {.way = b->what.way,
                               .seed = b->seed,
                               .stall_ms = b->what.stall_ms,
                               .silence_ms = silence_of(b->what.spec),
                               .cancel = cancel,
                               .stopped = link->stopped,
                               .arg = link->arg};
    int rc = remote_open(r, &spec, e);
    if (rc < 0)
        return rc;
    struct message *places = places_of(&b->what);
    struct link_call call = {.op = "feed", .args = places, .limit_ms = BLOCKS_SHORT_MS};
    rc = remote_call(NULL, r, &call, e);
    message_free(places);
    if (rc < 0)
        remote_close(r);
    return rc;
}

static void
tell_moved(struct blocks_stream *s)
{
    uint64_t moved = s->remote.link.bytes_in + s->remote.link.bytes_out;
    atomic_fetch_add_explicit(&s->link.progress->bytes_moved, moved - s->told,
                              memory_order_relaxed);
    s->told = moved;
}

/* What takes the frames of a list. */
struct listing {
    struct patch_list *list;
    struct blocks_stream *stream;
    uint64_t bytes;
};

/* The payload of a binary frame, unpacked where it was packed. */
static int
payload_of(struct blocks_stream *s, const struct frame *f, struct frame_room *out, struct err *e)
{
    if (f->packing == FRAME_PLAIN) {
        *out = (struct frame_room){(void *)f->payload, f->len, f->len};
        return 0;
    }
    *out = (struct frame_room){.bytes = s->room, .room = FEED_BLOCKS_BYTES};
    return frame_unpack(s->packer, f, out, e);
}

static int
take_list(void *arg, const struct frame *f, struct err *e)
{
    struct listing *l = arg;
    struct frame_room payload;
    if (f->type != FRAME_LIST)
        return err_set(e, ERR_PROTOCOL, "a list was owed");
    int rc = payload_of(l->stream, f, &payload, e);
    l->bytes += FRAME_HEAD_BYTES + payload.len;
    if (rc == 0 && l->bytes > BLOCKS_LIST_BYTES)
        rc = err_set(e, ERR_LIMIT, "the source lists too many files");
    return rc ? rc : feed_get_list(l->list, payload.bytes, payload.len, e);
}

static void
stream_free(struct blocks_stream *s)
{
    remote_close(&s->remote);
    frame_packer_free(s->packer);
    str_free(&s->payload);
    free(s->room);
    free(s);
}

/* The flag ends the starting of its feeder. */
static int
stream_new(struct blocks_stream **out, struct blocks *b, const struct patch_link *link,
           const atomic_bool *cancel, struct err *e)
{
    struct blocks_stream *s = mem_zalloc(sizeof(*s));
    s->blocks = b;
    s->link = *link;
    s->packer = frame_packer_new();
    s->room = mem_alloc(FEED_BLOCKS_BYTES);
    str_init(&s->payload);
    int rc = open_feeder(b, &s->remote, &s->link, cancel, e);
    if (rc < 0)
        stream_free(s);
    else
        *out = s;
    return rc;
}

/* From now on the stream works for that worker. */
static void
stream_serve(struct blocks_stream *s, const struct patch_link *link)
{
    s->link = *link;
    s->remote.link.stopped = link->stopped;
    s->remote.link.arg = link->arg;
}

static bool
blocks_cancelled(void *arg)
{
    const struct blocks *b = arg;
    const atomic_bool *cancel = b->what.spec->cancel;
    return atomic_load_explicit(&b->given_up, memory_order_relaxed) ||
           (cancel && atomic_load_explicit(cancel, memory_order_relaxed));
}

static void *
opener_run(void *arg)
{
    struct opener *o = arg;
    struct patch_progress nobody = {0};
    struct patch_link link = {blocks_cancelled, o->blocks, &nobody};
    o->rc = stream_new(&o->stream, o->blocks, &link, &o->blocks->given_up, &o->error);
    return NULL;
}

/* Opens the streams of all workers but the first, which gets that of the list. Where no thread can be had
 * they open theirs themselves. */
static void
start_openers(struct blocks *b)
{
    int wanted = patch_threads(b->what.spec) - 1;
    pthread_mutex_lock(&b->lock);
    while (b->opener_count < wanted) {
        struct opener *o = &b->openers[b->opener_count];
        *o = (struct opener){.blocks = b};
        if (pthread_create(&o->thread, NULL, opener_run, o) != 0)
            break;
        b->opener_count++;
    }
    pthread_mutex_unlock(&b->lock);
}

/* The stream of an opener, for a worker that may be stopped meanwhile, and with it all. */
static int
take_opened(struct blocks_stream **out, struct opener *o, const struct patch_link *link,
            struct err *e)
{
    struct timespec until;
    do {
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_nsec += OPENED_TICK_MS * 1000000;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        if (link->stopped(link->arg))
            atomic_store(&o->blocks->given_up, true);
    } while (pthread_timedjoin_np(o->thread, NULL, &until) != 0);
    *out = o->stream;
    if (o->rc < 0 && e)
        *e = o->error;
    return o->rc;
}

static int
blocks_list(struct patch_source *base, struct patch_list *l, struct err *e)
{
    struct blocks *b = (struct blocks *)base;
    struct patch_progress nobody = {0};
    struct patch_progress *p = b->what.spec->progress ? b->what.spec->progress : &nobody;
    struct patch_link link = {blocks_cancelled, b, p};
    struct listing listing = {.list = l};
    start_openers(b);
    int rc = stream_new(&listing.stream, b, &link, NULL, e);
    if (rc < 0)
        return rc;
    struct link_call call = {.op = "list", .on_frame = take_list, .arg = &listing};
    rc = remote_call(NULL, &listing.stream->remote, &call, e);
    tell_moved(listing.stream);
    if (rc == 0) {
        b->listed = listing.stream;
        return 0;
    }
    err_wrap(e, "listing %s of %s", b->what.spec->source_dir, listing.stream->remote.peer);
    stream_free(listing.stream);
    return rc;
}

static int
blocks_connect(struct patch_source *base, void **stream, uint32_t *window,
               const struct patch_link *link, struct err *e)
{
    struct blocks *b = (struct blocks *)base;
    pthread_mutex_lock(&b->lock);
    struct blocks_stream *s = b->listed;
    bool opened = !s && b->openers_taken < b->opener_count;
    struct opener *o = opened ? &b->openers[b->openers_taken++] : NULL;
    b->listed = NULL;
    pthread_mutex_unlock(&b->lock);
    int rc = 0;
    if (o)
        rc = take_opened(&s, o, link, e);
    else if (!s)
        rc = stream_new(&s, b, link, NULL, e);
    if (rc == 0)
        stream_serve(s, link);
    *stream = s;
    *window = PATCH_WINDOW_MAX;
    return rc;
}

static int
blocks_open(struct patch_source *base, void **file, const struct patch_name *name, struct err *e)
{
    (void)base;
    (void)e;
    struct blocks_file *f = mem_alloc(sizeof(*f));
    *f = (struct blocks_file){name->root, name->dir, name->name};
    *file = f;
    return 0;
}

static void
blocks_close(struct patch_source *base, void *file)
{
    (void)base;
    free(file);
}

static int
blocks_ask(void *stream, const struct patch_ask *ask, struct err *e)
{
    struct blocks_stream *s = stream;
    const struct blocks_file *f = ask->file;
    uint8_t hashes[PATCH_RANGE_UNITS * PATCH_HASH_BYTES];
    struct feed_ask question = {f->root, ask->offset, ask->bytes, ask->have_bytes,
                                f->dir,  f->name,     hashes};
    patch_hashes(hashes, s->blocks->seed, ask->have, ask->have_bytes);
    str_clear(&s->payload);
    feed_put_ask(&s->payload, &question);
    struct frame frame = {.type = FRAME_ASK,
                          .id = s->next_id + s->count,
                          .payload = s->payload.data,
                          .len = s->payload.len};
    must(s->count < PATCH_WINDOW_MAX);
    s->asked[(s->first + s->count++) % PATCH_WINDOW_MAX] = question;
    return remote_wrap(&s->remote, link_hold(&s->remote.link, &frame, e), e);
}

static int
take_answer(struct blocks_stream *s, const struct feed_ask *ask, struct patch_answer *answer,
            struct err *e)
{
    struct frame f;
    struct frame_room payload;
    int rc = link_next(&s->remote.link, &f, -1, e);
    if (rc < 0)
        return remote_wrap(&s->remote, rc, e);
    if (f.type == FRAME_FAIL) {
        struct message *m;
        struct err why = {0};
        rc = message_parse(&m, f.payload, f.len, e);
        if (rc < 0)
            return rc;
        message_error(&why, m);
        message_free(m);
        if (e)
            *e = why;
        return why.code;
    }
    if (f.type != FRAME_BLOCKS || f.id != s->next_id)
        return err_set(e, ERR_PROTOCOL, "another answer was owed");
    rc = payload_of(s, &f, &payload, e);
    return rc ? rc : feed_get_blocks(answer, ask, &payload, e);
}

static int
blocks_answer(void *stream, struct patch_answer *answer, struct err *e)
{
    struct blocks_stream *s = stream;
    must(s->count > 0);
    const struct feed_ask *ask = &s->asked[s->first];
    int rc = take_answer(s, ask, answer, e);
    if (rc)
        err_wrap(e, "%s%s%s of %s", ask->dir, *ask->dir ? "/" : "", ask->name, s->remote.peer);
    s->first = (s->first + 1) % PATCH_WINDOW_MAX;
    s->count--;
    s->next_id++;
    tell_moved(s);
    return rc;
}

static void
blocks_disconnect(void *stream)
{
    if (stream)
        stream_free(stream);
}

static int
blocks_control(struct patch_source *base, void *image, struct err *e)
{
    struct blocks *b = (struct blocks *)base;
    struct link_call call = {.op = "control", .limit_ms = BLOCKS_SHORT_MS};
    struct message *m = NULL;
    struct control control;
    struct str bytes = STR_INIT;
    must(b->what.control);
    int rc = remote_call(&m, b->what.control, &call, e);
    bool read = rc == 0 && feed_get_hex(&bytes, message_text(m, "image", ""));
    if (rc == 0 && (!read || bytes.len != CONTROL_FILE_BYTES))
        rc = err_set(e, ERR_PROTOCOL, "%s sent no pg_control", b->what.control->peer);
    /* Its CRC holds from the source's disk to here. */
    if (rc == 0)
        rc = control_parse(&control, bytes.data, bytes.len, e);
    if (rc == 0)
        memcpy(image, bytes.data, bytes.len);
    str_free(&bytes);
    message_free(m);
    return rc;
}

static void
blocks_free(struct patch_source *base)
{
    struct blocks *b = (struct blocks *)base;
    atomic_store(&b->given_up, true);
    for (int i = b->openers_taken; i < b->opener_count; i++) {
        pthread_join(b->openers[i].thread, NULL);
        blocks_disconnect(b->openers[i].stream);
    }
    blocks_disconnect(b->listed);
    pthread_mutex_destroy(&b->lock);
    free(b);
}

int
remote_blocks_new(struct patch_source **out, const struct remote_blocks *what, struct err *e)
{
    struct blocks *b = mem_zalloc(sizeof(*b));
    b->base = (struct patch_source){.list = blocks_list,
                                    .connect = blocks_connect,
                                    .open = blocks_open,
                                    .ask = blocks_ask,
                                    .answer = blocks_answer,
                                    .close = blocks_close,
                                    .disconnect = blocks_disconnect,
                                    .control = blocks_control,
                                    .free = blocks_free};
    b->what = *what;
    pthread_mutex_init(&b->lock, NULL);
    /* Users choose what blocks hold; the seed is nothing that they could know. */
    if (getrandom(&b->seed, sizeof(b->seed), 0) != sizeof(b->seed)) {
        blocks_free(&b->base);
        return err_sys(e, errno, "no random number");
    }
    *out = &b->base;
    return 0;
}
