/*
 * recover: a full or differential recovery of a stopped instance of this host from a live primary of this
 * host, or of another one (args.source.host). The order of steps, and why it is right, is SAFETY.md's rule 5 and "Why a recovery is right".
 */
#include "carry.h"
#include "moonrise/base/err.h"
#include "moonrise/base/io.h"
#include "moonrise/base/str.h"
#include "moonrise/loop/loop.h"
#include "moonrise/patch/source.h"
#include "moonrise/pg/control.h"
#include "order.h"
#include "remote_blocks.h"
#include "server.h"
#include "source.h"
#include "target.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define TICK_MS    100
#define REPORT_MS  250
#define CHECK_MS   1000
#define STREAM_MS  120000
#define CROWDED_MS 10000
#define KEEP_MS    200 /* while WAL is carried, and the slot follows */
/* What a replay gets through at the least. Until all that was carried is replayed no stream is asked for. */
#define REPLAY_BYTES_MS 4000
/* A restart of the source takes less, most of the time; when it does not, running the recovery again does. */
#define SOURCE_GONE_MS 3000

static const char *const stage_names[] = {"listing", "deleting", "copying", "flushing", "flushed"};

/* The patch on a thread of its own, so that this one can report, and watch the source's session. */
struct copying {
    struct patch_spec spec;
    struct patch_progress progress;
    atomic_bool stop;
    atomic_bool done;
    int rc;
    struct err error;
};

struct recovery {
    struct order *o;
    struct source source;
    struct target target;
    struct copying copy;
    struct carry *carry;    /* NULL: the slot holds the WAL */
    int64_t kept;           /* when the slot was looked at, and moved */
    int64_t source_checked; /* when its postmaster was looked for, and when it was there */
    int64_t source_seen;
    bool source_unknown; /* its host does not say: the target's own deadline holds */
    uint64_t segment_bytes;
    int64_t crowded; /* since when the target has had no room for one of WAL; 0: it has */
};

static void *
copy_thread(void *arg)
{
    struct copying *c = arg;
    c->rc = patch_run(&c->spec, &c->error);
    atomic_store(&c->done, true);
    return NULL;
}

static void
tell_numbers(struct message *m, struct patch_progress *p)
{
    message_set_int(m, "bytes_total", (int64_t)atomic_load(&p->bytes_total));
    message_set_int(m, "bytes_done", (int64_t)atomic_load(&p->bytes_done));
    message_set_int(m, "bytes_written", (int64_t)atomic_load(&p->bytes_written));
    message_set_int(m, "bytes_different", (int64_t)atomic_load(&p->bytes_different));
    message_set_int(m, "bytes_moved", (int64_t)atomic_load(&p->bytes_moved));
    message_set_int(m, "files_total", (int64_t)atomic_load(&p->files_total));
    message_set_int(m, "files_done", (int64_t)atomic_load(&p->files_done));
    message_set_int(m, "files_deleted", (int64_t)atomic_load(&p->files_deleted));
}

static void
report(struct recovery *r, const char *stage)
{
    const struct agent_call *call = r->o->call;
    target_tell(&r->target, stage, &r->copy.progress);
    if (!call->progress)
        return;
    struct message *m = message_new();
    message_set_text(m, "stage", stage);
    tell_numbers(m, &r->copy.progress);
    call->progress(call->progress_arg, m);
    message_free(m);
}

/* The slot holds what is not here yet. Where that may become more than it can hold it is carried from then on:
 * from the copy's start, which it still has. */
static int
keep_wal(struct recovery *r, struct err *e)
{
    struct source_wal wal = {.from = r->source.start_lsn, .carried = r->carry != NULL};
    int rc = 0;
    r->kept = clock_ms();
    if (r->carry) {
        wal.from = carry_kept(r->carry);
        rc = carry_check(r->carry, e);
    }
    if (rc == 0)
        rc = source_keep(&r->source, &wal, e);
    if (rc == ERR_REFUSED && r->carry) /* the slot has lost WAL: it was held too long */
        carry_explain(r->carry, e);
    if (rc < 0 || r->carry || !carry_is_wanted(&wal))
        return rc;
    rc = carry_begin(&r->carry, r->o, &r->source, e);
    /* The session with the source outlives its backup from now on, however soon that ends. */
    wal.carried = true;
    return rc < 0 ? rc : source_keep(&r->source, &wal, e);
}

static int
watch_backup(struct recovery *r, struct err *e)
{
    int64_t pause_ms = r->carry ? KEEP_MS : CHECK_MS;
    if (clock_ms() - r->kept < pause_ms)
        return 0;
    int rc = source_check(&r->source, e);
    return rc < 0 ? rc : keep_wal(r, e);
}

/* Reports and watches until the copy is done; an order to stop, or a source that is gone, ends it. */
static int
watch_copy(struct recovery *r, struct err *e)
{
    struct copying *c = &r->copy;
    int64_t reported = 0;
    int rc = 0;
    while (!atomic_load(&c->done)) {
        int why = order_pause(r->o, TICK_MS / 10, e);
        int64_t now = clock_ms();
        if (why == 0 && rc == 0)
            why = watch_backup(r, e);
        if (why < 0 && rc == 0)
            rc = why;
        if (rc < 0)
            atomic_store(&c->stop, true);
        if (now - reported > REPORT_MS) {
            report(r, stage_names[atomic_load(&c->progress.stage)]);
            reported = now;
        }
    }
    return rc;
}

static int
copy(struct recovery *r, struct err *e)
{
    struct copying *c = &r->copy;
    pthread_t thread;
    c->spec = (struct patch_spec){
        .type = r->target.resumes ? PATCH_DIFFERENTIAL : r->target.type,
        .source_dir = r->source.datadir,
        .target_dir = r->o->datadir,
        .target_wal_dir = message_text(r->o->args, "wal_dir", NULL),
        .tablespaces = r->target.spaces,
        .tablespace_count = r->target.space_count,
        .target_flushed = r->target.flushed,
        .threads = (int)message_int(r->o->args, "threads", 0),
        .max_rate = (uint64_t)message_int(r->o->args, "max_rate", 0),
        .progress = &c->progress,
        .cancel = &c->stop,
    };
    struct remote_blocks far = {
        .way = r->source.way, .spec = &c->spec, .control = &r->source.remote};
    if (r->source.host && remote_blocks_new(&c->spec.source, &far, e) < 0)
        return e ? e->code : ERR_IO;
    if (pthread_create(&thread, NULL, copy_thread, c) != 0)
        return err_set(e, ERR_IO, "no thread for the copy");
    int rc = watch_copy(r, e);
    pthread_join(thread, NULL);
    if (rc == 0 && (rc = c->rc) < 0 && e)
        *e = c->error;
    return rc;
}

static int
finish(struct recovery *r, struct err *e)
{
    int rc = source_end(&r->source, e);
    if (rc == 0)
        rc = source_files(&r->source, e);
    if (rc == 0)
        rc = target_dress(&r->target, e);
    if (rc == 0 && r->carry)
        rc = carry_deliver(r->carry, e);
    if (rc == 0)
        rc = patch_finish(&r->copy.spec, e);
    if (rc == 0)
        rc = target_adopt(&r->target, e);
    return rc;
}

/* Without its source the target never becomes consistent: the end of the backup is in WAL that it still
 * has to receive. */
static int
watch_source(void *arg, struct err *e)
{
    struct recovery *r = arg;
    int64_t now = clock_ms();
    bool lives;
    if (r->source_unknown || now - r->source_checked < CHECK_MS)
        return 0;
    r->source_checked = now;
    r->source_unknown = source_lives(&lives, &r->source, NULL) < 0;
    if (r->source_unknown || lives)
        r->source_seen = now;
    if (now - r->source_seen <= SOURCE_GONE_MS)
        return 0;
    err_set(e, ERR_NOTFOUND,
            "the source %s has stopped, and the copy in %s still needs WAL from it",
            r->source.datadir, r->o->datadir);
    return err_hint(e, "start the source again, then run the recovery again: moonrise recoverseg");
}

/* A mirror that has no room for a segment of WAL does not stream, and tries again and again. */
static int
watch_room(struct recovery *r, struct err *e)
{
    int64_t now = clock_ms();
    uint64_t room;
    char *wal = order_path(r->o, "pg_wal");
    if (io_free_bytes(&room, wal, NULL) < 0 || room >= r->segment_bytes)
        r->crowded = 0;
    else if (r->crowded == 0)
        r->crowded = now;
    int rc = 0;
    if (r->crowded && now - r->crowded > CROWDED_MS)
        rc = err_set(e, ERR_SPACE,
                     "it does not stream, having no room for a segment of WAL: %" PRIu64
                     " bytes are free in %s",
                     room, wal);
    free(wal);
    return rc;
}

/* Until the mirror's own receiver has the slot the WAL is carried on. A session with the source that was lost
 * ends nothing any more: whether the source lives is watched, and the slot stays where it is. */
static int
watch_start(void *arg, struct err *e)
{
    struct recovery *r = arg;
    struct err why;
    int rc = watch_source(r, e);
    if (rc == 0)
        rc = watch_room(r, e);
    if (rc < 0 || !r->carry || clock_ms() - r->kept < KEEP_MS)
        return rc;
    rc = carry_deliver(r->carry, e);
    if (rc < 0)
        return rc;
    rc = keep_wal(r, &why);
    if (rc == 0 || rc == ERR_CONNECT || rc == ERR_TIMEOUT || rc == ERR_SQL)
        return 0;
    if (e)
        *e = why;
    return rc;
}

static int
start(struct recovery *r, struct err *e)
{
    struct server s;
    int64_t replay_ms = r->carry ? (int64_t)(carry_bytes(r->carry) / REPLAY_BYTES_MS) : 0;
    struct server_wait wait = {.deadline_ms =
                                   order_deadline(r->o, "wait_ms", STREAM_MS) + replay_ms,
                               .stream_ms = STREAM_MS + replay_ms,
                               .watch = watch_start,
                               .watch_arg = r};
    struct control control;
    char *path = order_path(r->o, "global/pg_control");
    int rc = control_read(&control, path, NULL, e);
    free(path);
    if (rc < 0)
        return rc;
    r->segment_bytes = control.wal_segment_bytes;
    r->source_checked = r->source_seen = clock_ms();
    report(r, "starting");
    rc = server_start(&s, r->o, &wait, e);
    if (rc == 0 && !s.streaming) {
        server_failed(r->o, 0, e);
        err_wrap(e, "it does not stream");
        rc = e ? (e->code = ERR_TIMEOUT) : ERR_TIMEOUT;
    }
    message_set_int(r->o->result, "pid", s.pid);
    message_set_bool(r->o->result, "streaming", s.streaming);
    return rc;
}

static int
read_type(struct recovery *r, struct err *e)
{
    const char *type = message_text(r->o->args, "type", "");
    if (strcmp(type, "full") != 0 && strcmp(type, "differential") != 0)
        return err_set(e, ERR_ARGUMENT, "type '%.32s' is neither full nor differential", type);
    r->target.type = strcmp(type, "full") == 0 ? PATCH_FULL : PATCH_DIFFERENTIAL;
    return 0;
}

static int
recover(struct recovery *r, struct err *e)
{
    int rc = read_type(r, e);
    if (rc == 0)
        rc = source_open(&r->source, r->o, e);
    if (rc == 0)
        rc = target_check(&r->target, e);
    if (rc == 0)
        rc = target_spaces(&r->target, e);
    if (rc == 0) {
        report(r, "checkpoint");
        rc = source_begin(&r->source, e);
    }
    if (rc == 0)
        rc = target_take(&r->target, e);
    if (rc == 0)
        rc = carry_clean(r->o, e);
    /* What stands before the copy's start in the slot was for the data that is replaced now. */
    if (rc == 0)
        rc = keep_wal(r, e);
    if (rc == 0)
        rc = copy(r, e);
    return rc == 0 ? finish(r, e) : rc;
}

static void
tell_wal(struct recovery *r)
{
    message_set_text(r->o->result, "wal", r->carry ? "carried" : "held");
    message_set_int(r->o->result, "wal_bytes", r->carry ? (int64_t)carry_bytes(r->carry) : 0);
}

int
op_recover(struct order *o, struct err *e)
{
    struct recovery *r = mem_zalloc(sizeof *r);
    int64_t began = clock_ms();
    r->o = r->target.o = o;
    r->target.source = &r->source;
    int rc = recover(r, e);
    /* Ours goes before the start: it does not hold against our own children. */
    target_done(&r->target);
    if (rc == 0 && message_bool(o->args, "start", true))
        rc = start(r, e);
    if (rc == ERR_SPACE)
        err_hint(e, "make room there and run it again: what has been copied is kept");
    if (rc == 0) {
        tell_wal(r);
        tell_numbers(o->result, &r->copy.progress);
        message_set_int(o->result, "ms", clock_ms() - began);
        message_set_text(o->result, "type", message_text(o->args, "type", ""));
        message_set_bool(o->result, "resumed", r->target.resumes);
    }
    if (r->copy.spec.source)
        r->copy.spec.source->free(r->copy.spec.source);
    carry_end(r->carry);
    source_close(&r->source);
    free(r);
    return rc;
}
