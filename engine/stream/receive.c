#include "moonrise/base/err.h"
#include "moonrise/base/str.h"
#include "moonrise/conn/copy.h"
#include "moonrise/conn/result.h"
#include "moonrise/loop/loop.h"

#include "message.h"
#include "pages.h"
#include "segment.h"
#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

enum {
    COMMAND_MS = 30000, /* for the answer to START_REPLICATION */
    END_MS =
        5000, /* for the end of a stream that is wanted no more; what is here is safe by then */
};

struct receiver {
    const struct stream_spec *spec;
    struct stream_result *result; /* its lsn and timeline are where we are */
    struct stream_session session;
    struct stream_pages pages;
    struct segment *segment;
    lsn_t durable_lsn;
    bool tells_flushed; /* the server learns what is durable here */
    int64_t told_ms;    /* the last status update */
    int64_t heard_ms;   /* the last message of the server */
    bool pinged;        /* it was asked since */
};

static void
say(const struct receiver *r, enum stream_event_kind kind, lsn_t lsn)
{
    struct stream_event event = {.kind = kind, .lsn = lsn, .timeline = r->result->timeline};
    r->spec->said(r->spec->arg, &event);
}

static bool
is_enough(const struct receiver *r)
{
    return atomic_load(r->spec->cancel) || (r->spec->end_lsn && r->result->lsn > r->spec->end_lsn);
}

static int
send_status(struct receiver *r, bool ping, struct err *e)
{
    uint8_t bytes[STATUS_BYTES];
    const struct stream_status status = {.written_lsn = r->result->lsn,
                                         .flushed_lsn = r->tells_flushed ? r->durable_lsn : 0,
                                         .ping = ping};
    message_status(bytes, &status);
    r->told_ms = clock_ms();
    return copy_put(r->session.db, bytes, sizeof(bytes), r->told_ms + r->spec->silence_ms, e);
}

static int
flush(struct receiver *r, struct err *e)
{
    if (r->durable_lsn >= r->result->lsn || !r->segment)
        return 0;
    int rc = segment_flush(r->segment, e);
    if (rc == 0)
        r->durable_lsn = r->result->lsn;
    return rc;
}

/* Closes the segment, whole or not: what was received is durable then. */
static int
close_segment(struct receiver *r, struct err *e)
{
    struct segment *s = r->segment;
    r->segment = NULL;
    int rc = segment_close(s, e);
    if (rc == 0)
        r->durable_lsn = r->result->lsn;
    return rc;
}

static int
open_segment(struct receiver *r, struct err *e)
{
    const struct segment_spec spec = {.directory = r->spec->directory,
                                      .timeline = r->result->timeline,
                                      .begin_lsn = r->result->lsn,
                                      .bytes = r->session.sizes.segment_bytes,
                                      .codec = r->spec->codec,
                                      .level = r->spec->level,
                                      .mode = r->session.sizes.file_mode,
                                      .sync = r->spec->sync};
    return segment_open(&r->segment, &spec, e);
}

/* Writes bytes that follow the last ones, into one segment after another. */
static int
write_wal(struct receiver *r, const uint8_t *bytes, size_t len, struct err *e)
{
    const uint32_t segment_bytes = r->session.sizes.segment_bytes;
    while (len > 0) {
        uint32_t room = segment_bytes - (uint32_t)(r->result->lsn % segment_bytes);
        size_t n = len < room ? len : room;
        int rc = r->segment ? 0 : open_segment(r, e);
        if (rc == 0)
            rc = segment_write(r->segment, bytes, n, e);
        if (rc < 0)
            return rc;
        r->result->lsn += n;
        bytes += n;
        len -= n;
        if (n < room)
            continue;
        rc = close_segment(r, e);
        if (rc < 0)
            return rc;
        say(r, STREAM_FINISHED, r->result->lsn);
        if (r->tells_flushed && (rc = send_status(r, false, e)) < 0)
            return rc;
    }
    return 0;
}

static int
take_wal(struct receiver *r, const struct stream_message *m, struct err *e)
{
    char sent[LSN_TEXT_BYTES], wanted[LSN_TEXT_BYTES];
    if (m->lsn != r->result->lsn)
        return err_set(e, ERR_PROTOCOL, "the server sent WAL from %s where %s comes next",
                       lsn_format(sent, m->lsn), lsn_format(wanted, r->result->lsn));
    int rc = pages_take(&r->pages, m->bytes, m->len, e);
    return rc < 0 ? rc : write_wal(r, m->bytes, m->len, e);
}

/* Who is asked answers at once: a server that shuts down waits for what is durable here. */
static int
answer(struct receiver *r, struct err *e)
{
    int rc = r->tells_flushed ? flush(r, e) : 0;
    return rc < 0 ? rc : send_status(r, false, e);
}

static int
take_message(struct receiver *r, const void *bytes, size_t len, struct err *e)
{
    struct stream_message m;
    int rc = message_read(&m, bytes, len, e);
    if (rc < 0)
        return rc;
    r->heard_ms = clock_ms();
    r->pinged = false;
    if (m.kind == MESSAGE_WAL)
        return take_wal(r, &m, e);
    return m.reply ? answer(r, e) : 0;
}

/* What is due while nothing comes. */
static int
tend(struct receiver *r, struct err *e)
{
    const struct stream_spec *spec = r->spec;
    int rc = 0;
    if (spec->synchronous && r->durable_lsn < r->result->lsn) {
        rc = flush(r, e);
        if (rc == 0)
            rc = send_status(r, false, e);
    }
    int64_t now = clock_ms(), silent = now - r->heard_ms;
    if (rc == 0 && silent >= spec->silence_ms)
        return err_set(e, ERR_TIMEOUT, "the server has said nothing for %" PRId64 " s",
                       silent / 1000);
    if (rc == 0 && !r->pinged && silent >= spec->silence_ms / 2) {
        r->pinged = true;
        rc = send_status(r, true, e);
    } else if (rc == 0 && spec->status_ms > 0 && now - r->told_ms >= spec->status_ms) {
        rc = send_status(r, false, e);
    }
    return rc;
}

/* When tend is called at the latest. */
static int64_t
next_due(const struct receiver *r)
{
    int64_t due = r->heard_ms + (r->pinged ? r->spec->silence_ms : r->spec->silence_ms / 2);
    int64_t status = r->told_ms + r->spec->status_ms;
    return r->spec->status_ms > 0 && status < due ? status : due;
}

/* Takes what comes until it is enough (0) or the server has ended the stream (1). */
static int
take_stream(struct receiver *r, struct err *e)
{
    const void *bytes;
    size_t len;
    r->told_ms = r->heard_ms = clock_ms();
    r->pinged = false;
    while (!is_enough(r)) {
        int rc = tend(r, e);
        if (rc < 0)
            return rc;
        rc = copy_get(r->session.db, &bytes, &len, next_due(r), e);
        /* What is at hand already is taken in one go, and flushed once. */
        while (rc == COPY_MESSAGE) {
            if ((rc = take_message(r, bytes, len, e)) < 0)
                return rc;
            rc = is_enough(r) ? COPY_NOTHING : copy_get(r->session.db, &bytes, &len, 0, e);
        }
        if (rc < 0 || rc == COPY_ENDED)
            return rc < 0 ? rc : 1;
    }
    return 0;
}

/* A server that has removed the WAL says so by the name of a file that it does not find. */
static int
why_ended(const struct receiver *r, struct err *e)
{
    if (e->code != ERR_SQL || strcmp(e->sqlstate, "58P01") != 0)
        return e->code;
    char lsn[LSN_TEXT_BYTES], name[WAL_NAME_BYTES];
    const struct stream_result *at = r->result;
    struct err said = *e;
    err_set(e, ERR_NOTFOUND,
            "the server has removed the WAL that comes next, at %s (segment %s): %s",
            lsn_format(lsn, at->lsn),
            wal_segment_name(name, at->timeline, at->lsn, r->session.sizes.segment_bytes),
            said.message);
    return err_hint(e, "what follows starts with a new base backup and an empty directory; a "
                       "replication slot (-S) has the server keep it");
}

/* Where the next timeline begins: a row of its number and its position. */
static int
read_next(const struct receiver *r, uint64_t *timeline, lsn_t *lsn, const struct result *next,
          struct err *e)
{
    const char *where = NULL;
    int rc = ERR_PROTOCOL;
    if (result_rows(next) == 1 && result_columns(next) >= 2) {
        where = result_get(next, 0, 1);
        rc = command_number(timeline, result_get(next, 0, 0), UINT32_MAX, e);
    }
    if (rc < 0 || !where || lsn_parse(lsn, where, e) < 0)
        return err_set(e, ERR_PROTOCOL, "the server does not say how timeline %" PRIu32 " goes on",
                       r->result->timeline);
    if (*timeline <= r->result->timeline || *lsn > r->result->lsn)
        return err_set(e, ERR_PROTOCOL,
                       "the server says that timeline %" PRIu32 " goes on as timeline %" PRIu64
                       " from %s",
                       r->result->timeline, *timeline, where);
    return 0;
}

/* The timeline has ended: on with the next one, from the beginning of the segment in which it begins. */
static int
switch_timeline(struct receiver *r, const struct result *next, struct err *e)
{
    uint64_t timeline;
    lsn_t lsn;
    int rc = read_next(r, &timeline, &lsn, next, e);
    if (rc < 0)
        return rc;
    r->result->timeline = (uint32_t)timeline;
    r->result->lsn = r->durable_lsn = lsn - lsn % r->session.sizes.segment_bytes;
    say(r, STREAM_SWITCHED, lsn);
    return session_keep_history(&r->session, r->spec, r->result->timeline, e);
}

static char *
start_command(const struct receiver *r)
{
    char lsn[LSN_TEXT_BYTES];
    struct str text = STR_INIT;
    str_puts(&text, "START_REPLICATION ");
    if (r->spec->slot) {
        char *slot = command_quoted(r->spec->slot);
        str_printf(&text, "SLOT %s ", slot);
        free(slot);
    }
    str_printf(&text, "PHYSICAL %s TIMELINE %" PRIu32, lsn_format(lsn, r->result->lsn),
               r->result->timeline);
    return str_take(&text);
}

/* It is enough: the server is told how far we are, and that nothing more is wanted. Whether it still hears
 * that changes nothing. */
static int
leave(struct receiver *r, struct err *e)
{
    int rc = close_segment(r, e);
    if (rc < 0)
        return rc;
    struct err dropped;
    if (send_status(r, false, &dropped) == 0)
        copy_end(r->session.db, NULL, clock_ms() + END_MS, &dropped);
    return atomic_load(r->spec->cancel) ? err_set(e, ERR_CANCELLED, "cancelled") : 0;
}

/* Streams one timeline: 0 it is enough, 1 it has ended and *next says how it goes on, or an error. */
static int
stream_timeline(struct receiver *r, const struct result **next, struct err *e)
{
    struct db *db = r->session.db;
    char *command = start_command(r);
    int rc = copy_begin(db, command, next, clock_ms() + COMMAND_MS, e);
    free(command);
    if (rc < 0)
        return why_ended(r, e);
    if (rc == 0)
        return 1;
    r->result->streamed = true;
    rc = take_stream(r, e);
    if (rc == 0)
        return leave(r, e);
    /* What was received stays, whatever ended it. */
    struct err failed;
    if (close_segment(r, &failed) < 0 && rc > 0) {
        *e = failed;
        return failed.code;
    }
    if (rc < 0)
        return rc;
    rc = copy_end(db, next, clock_ms() + COMMAND_MS, e);
    return rc < 0 ? why_ended(r, e) : 1;
}

static void
begin_pages(struct receiver *r)
{
    r->pages = (struct stream_pages){
        .system_identifier = r->session.server.system_identifier,
        .page_bytes = r->session.sizes.page_bytes,
        .segment_bytes = r->session.sizes.segment_bytes,
        .timeline = r->result->timeline,
        .major = db_server_version(r->session.db) / 10000,
        .at = r->result->lsn,
    };
}

static int
stream_timelines(struct receiver *r, struct err *e)
{
    while (!is_enough(r)) {
        const struct result *next = NULL;
        begin_pages(r);
        int rc = stream_timeline(r, &next, e);
        if (rc <= 0)
            return rc;
        if (!next)
            return err_set(e, ERR_CONNECT, "the server has ended the stream: it is shutting down");
        rc = switch_timeline(r, next, e);
        if (rc < 0)
            return rc;
    }
    return atomic_load(r->spec->cancel) ? err_set(e, ERR_CANCELLED, "cancelled") : 0;
}

static int
run(struct receiver *r, struct err *e)
{
    int rc = session_open(&r->session, r->spec, e);
    if (rc == 0)
        rc = session_begin(&r->result->timeline, &r->result->lsn, &r->session, r->spec, e);
    if (rc == 0)
        rc = session_keep_history(&r->session, r->spec, r->result->timeline, e);
    if (rc < 0)
        return rc;
    r->result->begin_lsn = r->durable_lsn = r->result->lsn;
    r->tells_flushed = r->spec->slot || r->spec->synchronous;
    say(r, STREAM_BEGINS, r->result->lsn);
    return stream_timelines(r, e);
}

/* Locks the directory itself, in which no file of ours is left by that. */
static int
lock_directory(int *fd_out, const char *path, struct err *e)
{
    int fd = *fd_out = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return err_sys(e, errno, "%s", path);
    if (flock(fd, LOCK_EX | LOCK_NB) == 0)
        return 0;
    return errno == EWOULDBLOCK ? err_set(e, ERR_BUSY, "another receiver writes to %s", path)
                                : err_sys(e, errno, "lock %s", path);
}

int
stream_receive(struct stream_result *out, const struct stream_spec *spec, struct err *e)
{
    struct receiver r = {.spec = spec, .result = out};
    struct err why = {0};
    int fd;
    memset(out, 0, sizeof(*out));
    int rc = lock_directory(&fd, spec->directory, &why);
    if (rc == 0)
        rc = run(&r, &why);
    if (fd >= 0)
        close(fd);
    session_close(&r.session);
    if (rc < 0 && e)
        *e = why;
    return rc;
}
