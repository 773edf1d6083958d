#include "carry.h"

#include "conninfo.h"
#include "deliver.h"
#include "moonrise/base/err.h"
#include "moonrise/base/io.h"
#include "moonrise/base/str.h"
#include "moonrise/loop/loop.h"
#include "moonrise/stream/stream.h"
#include "tree.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define CARRY_DIR  "moonrise.wal"
#define CONNECT_MS 10000
#define STATUS_MS  5000
#define SILENCE_MS 20000
#define RETRY_MS   1000
/* Two seconds of a fast disk. A slot that holds less than twice this is never waited for. */
#define SPARE_BYTES ((uint64_t)256 << 20)

struct carry {
    const struct order *order;
    char *dir, *pg_wal;
    struct conn_params params;
    struct stream_spec spec;
    lsn_t begin_lsn;
    pthread_t thread;
    atomic_bool stop;
    _Atomic lsn_t received_lsn; /* behind the last whole segment */
    lsn_t delivered_lsn;
    bool delivers;
    pthread_mutex_t lock; /* of what follows */
    pthread_cond_t stopped;
    bool failed;      /* for good */
    struct err error; /* of the last attempt; code 0 while none has failed */
};

bool
carry_is_wanted(const struct source_wal *wal)
{
    return wal->left_bytes < wal->held_bytes || wal->left_bytes < SPARE_BYTES;
}

static void
said(void *arg, const struct stream_event *event)
{
    struct carry *c = arg;
    if (event->kind == STREAM_FINISHED)
        atomic_store(&c->received_lsn, event->lsn);
}

/* What another attempt may get over: a link that broke, a server that has no walsender free. */
static bool
may_pass(int code)
{
    return code == ERR_CONNECT || code == ERR_TIMEOUT || code == ERR_SQL;
}

/* Waits before the next attempt; false when there is none. */
static bool
note_failure(struct carry *c, const struct err *e)
{
    int64_t due = wall_ms() + RETRY_MS;
    const struct timespec until = {.tv_sec = due / 1000, .tv_nsec = due % 1000 * 1000000L};
    pthread_mutex_lock(&c->lock);
    c->error = *e;
    c->failed = !may_pass(e->code);
    while (!c->failed && !atomic_load(&c->stop) &&
           pthread_cond_timedwait(&c->stopped, &c->lock, &until) == 0)
        ;
    bool again = !c->failed && !atomic_load(&c->stop);
    pthread_mutex_unlock(&c->lock);
    return again;
}

static void *
carry_run(void *arg)
{
    struct carry *c = arg;
    struct stream_result result;
    struct err e;
    do {
        e = (struct err){0};
        /* All that came before may have been delivered. */
        c->spec.begin_lsn = atomic_load(&c->received_lsn);
        stream_receive(&result, &c->spec, &e);
    } while (!atomic_load(&c->stop) && note_failure(c, &e));
    return NULL;
}

static int
read_params(struct carry *c, struct err *e)
{
    char name[48];
    struct str text = STR_INIT;
    const struct message *settings = message_object(c->order->args, "settings");
    const char *conninfo = settings ? message_text(settings, "primary_conninfo", NULL) : NULL;
    if (!conninfo)
        return err_set(e, ERR_REFUSED,
                       "the source's slot cannot hold the WAL of this copy, and without "
                       "primary_conninfo nobody else can receive it");
    snprintf(name, sizeof name, "moonrise carry %d", c->order->dbid);
    int rc = conninfo_set(&text, conninfo, "application_name", name, e);
    if (rc == 0)
        rc = conn_params_parse(&c->params, text.data, e);
    str_free(&text);
    return rc;
}

static void
carry_free(struct carry *c)
{
    conn_params_free(&c->params);
    pthread_cond_destroy(&c->stopped);
    pthread_mutex_destroy(&c->lock);
    free(c->pg_wal);
    free(c->dir);
    free(c);
}

static int
carry_start(struct carry *c, const struct source *source, struct err *e)
{
    int rc = read_params(c, e);
    if (rc == 0)
        rc = io_make_dirs(c->dir, 0700, e);
    if (rc < 0)
        return rc;
    c->spec = (struct stream_spec){.params = c->params,
                                   .directory = c->dir,
                                   .system_identifier = source->sysid,
                                   .sync = true,
                                   .never_synchronous = true,
                                   .connect_ms = CONNECT_MS,
                                   .status_ms = STATUS_MS,
                                   .silence_ms = SILENCE_MS,
                                   .cancel = &c->stop,
                                   .said = said,
                                   .arg = c};
    if (pthread_create(&c->thread, NULL, carry_run, c) != 0)
        return err_set(e, ERR_IO, "no thread for the WAL");
    return 0;
}

int
carry_begin(struct carry **out, const struct order *o, const struct source *source, struct err *e)
{
    struct carry *c = mem_zalloc(sizeof *c);
    c->order = o;
    c->dir = order_path(o, CARRY_DIR);
    c->pg_wal = order_path(o, "pg_wal");
    c->begin_lsn = c->delivered_lsn = source->start_lsn;
    atomic_store(&c->received_lsn, source->start_lsn);
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->stopped, NULL);
    int rc = carry_start(c, source, e);
    if (rc < 0) {
        carry_free(c);
        return err_wrap(e, "receiving WAL of the source %s", source->datadir), rc;
    }
    *out = c;
    return 0;
}

int
carry_check(struct carry *c, struct err *e)
{
    int rc = 0;
    pthread_mutex_lock(&c->lock);
    if (c->failed) {
        rc = c->error.code;
        if (e)
            *e = c->error;
    }
    pthread_mutex_unlock(&c->lock);
    if (rc < 0)
        err_wrap(e, "receiving WAL into %s", c->dir);
    return rc;
}

void
carry_explain(struct carry *c, struct err *e)
{
    pthread_mutex_lock(&c->lock);
    if (e && c->error.code)
        err_hint(e, "receiving that WAL has failed, too: %.300s", c->error.message);
    pthread_mutex_unlock(&c->lock);
}

lsn_t
carry_kept(struct carry *c)
{
    return c->delivers ? c->delivered_lsn : atomic_load(&c->received_lsn);
}

int
carry_deliver(struct carry *c, struct err *e)
{
    /* Read before the directory is: all up to there lies in it. */
    lsn_t received = atomic_load(&c->received_lsn);
    c->delivers = true;
    if (received == c->delivered_lsn)
        return 0;
    int rc = deliver_segments(c->dir, c->pg_wal, e);
    if (rc == 0)
        c->delivered_lsn = received;
    return rc < 0 ? err_wrap(e, "moving received WAL to %s", c->pg_wal), rc : 0;
}

uint64_t
carry_bytes(struct carry *c)
{
    return atomic_load(&c->received_lsn) - c->begin_lsn;
}

int
carry_clean(const struct order *o, struct err *e)
{
    char *dir = order_path(o, CARRY_DIR);
    int rc = tree_remove(dir, e);
    free(dir);
    return rc;
}

void
carry_end(struct carry *c)
{
    if (!c)
        return;
    pthread_mutex_lock(&c->lock);
    atomic_store(&c->stop, true);
    pthread_cond_signal(&c->stopped);
    pthread_mutex_unlock(&c->lock);
    pthread_join(c->thread, NULL);
    carry_clean(c->order, NULL);
    carry_free(c);
}
