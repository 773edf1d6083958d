/*
 * The feeder: the end of a copy that stands next to the source's files. The agent of a target's host starts as
 * many as it wants streams (`moonrise agent --feed HOST`, HOST being there for who looks at the list of
 * processes), and one more that holds the session of the backup. It speaks on its standard input and output
 * (feed.h), answers, and ends with its input: with it ends the backup that it holds.
 *
 *   feed    (datadir, tablespaces: [{oid, path}], holder: the pid of the one more) answers questions about these
 *           directories from then on, as long as that one lives
 *   list    () -> frames of the list, then {}
 *   source  (source: {datadir, user, passfile}, slot, sysid, dbid, ...) -> sysid, real, dev, ino, boot_id: what
 *           source_open finds; then, each as the function of source.h:
 *   begin   -> start_lsn        check        end -> label
 *   keep    (from: LSN, carried: bool) -> held, left: bytes (source.h, struct source_wal)
 *   spaces  -> spaces: [{oid, path, real, dev, ino}]
 *   files   -> files: [{name, hex}]
 *   lives   -> lives: bool      control -> image: pg_control in hexadecimal digits
 *
 * Numbers of 64 bits are texts.
 *
 * A call is carried out on a thread of its own, so that this one hears when the other end has gone, also while
 * a checkpoint takes minutes: every second it says FRAME_PING, which has to be answered.
 */
#include "feeder.h"

#include "feed.h"
#include "moonrise/base/err.h"
#include "moonrise/conn/conn.h"
#include "moonrise/loop/loop.h"
#include "moonrise/wire/message.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TICK_MS        50 /* how soon the end of a call is noticed; a short one sooner */
#define SIGN_MS        1000
#define GREETING_MS    30000
#define WRITE_STALL_MS 900000 /* its reader writes to a disk, and may have to keep to a rate */

struct call {
    struct feeder *feeder;
    const char *op;
    const struct message *args;
    struct message *result;
    atomic_bool done;
    int rc;
    struct err error;
};

static int
carry_out(struct feeder *f, struct call *c, struct err *e)
{
    if (strcmp(c->op, "feed") == 0)
        return feeder_feed(f, c->args, e);
    if (strcmp(c->op, "list") == 0)
        return feeder_list(f, e);
    if (strcmp(c->op, "source") == 0)
        return feeder_source(f, c->args, c->result, e);
    struct link_call call = {.op = c->op, .args = c->args};
    return feeder_source_call(f, &call, c->result, e);
}

static void *
call_run(void *arg)
{
    struct call *c = arg;
    c->rc = carry_out(c->feeder, c, &c->error);
    atomic_store(&c->done, true);
    return NULL;
}

/* What may come while a call is carried out: signs of life. */
static int
hear(struct feeder *f, int64_t wait_ms, int64_t *heard, struct err *e)
{
    struct frame frame;
    int rc = link_next(&f->link, &frame, wait_ms, e);
    if (rc == 1 && frame.type != FRAME_PONG)
        return err_set(e, ERR_PROTOCOL, "a call is open already");
    if (rc == 1)
        *heard = clock_ms();
    if (rc == 0 && clock_ms() - *heard > f->silence_ms)
        rc = err_set(e, ERR_TIMEOUT, "the other end is silent");
    return rc < 0 ? rc : 0;
}

/* Waits for the end of a call. When the other end is gone the call is ended, too. */
static int
watch_call(struct feeder *f, struct call *c, struct err *e)
{
    int64_t heard = clock_ms(), sign = heard, tick_ms = 1;
    int rc = 0;
    while (rc == 0 && !atomic_load(&c->done)) {
        rc = hear(f, tick_ms, &heard, e);
        tick_ms = 2 * tick_ms < TICK_MS ? 2 * tick_ms : TICK_MS;
        if (rc == 0 && clock_ms() - sign >= SIGN_MS) {
            rc = link_send_message(&f->link, FRAME_PING, 0, NULL, e);
            sign = clock_ms();
        }
    }
    return rc;
}

static int
answer_call(struct feeder *f, struct call *c, uint32_t id, struct err *e)
{
    struct message *m = c->rc < 0 ? message_of_error(&c->error) : c->result;
    int rc = 0;
    if (c->rc == 0 && f->blocks.list)
        rc = feeder_send_list(f, e);
    if (rc == 0)
        rc = link_send_message(&f->link, c->rc < 0 ? FRAME_FAIL : FRAME_REPLY, id, m, e);
    if (c->rc < 0)
        message_free(m);
    return rc;
}

static int
serve_call(struct feeder *f, const struct frame *frame, struct err *e)
{
    struct message *m, *none = message_new();
    struct call c = {.feeder = f, .result = message_new()};
    pthread_t thread;
    int rc = message_parse(&m, frame->payload, frame->len, e);
    uint32_t id = frame->id;
    if (rc == 0)
        rc = message_need_text(m, "op", &c.op, e);
    if (rc == 0) {
        c.args = message_object(m, "args");
        c.args = c.args ? c.args : none;
        if (pthread_create(&thread, NULL, call_run, &c) != 0)
            rc = err_set(e, ERR_IO, "no thread for the call");
    }
    if (rc == 0) {
        rc = watch_call(f, &c, e);
        atomic_store(&f->cancel, rc < 0);
        pthread_join(thread, NULL);
        if (rc == 0)
            rc = answer_call(f, &c, id, e);
    }
    message_free(none);
    message_free(c.result);
    message_free(m);
    return rc;
}

static int
serve_frame(struct feeder *f, const struct frame *frame, struct err *e)
{
    switch (frame->type) {
    case FRAME_ASK:
        return feeder_ask(f, frame, e);
    case FRAME_CALL:
        return serve_call(f, frame, e);
    case FRAME_PONG: /* to a ping that crossed with it */
        return 0;
    default:
        return err_set(e, ERR_PROTOCOL, "a frame of type %d makes no sense here", frame->type);
    }
}

static int
greet(struct feeder *f, struct err *e)
{
    struct frame frame;
    struct message *m = message_new();
    message_set_int(m, "protocol", FEED_PROTOCOL);
    message_set_int(m, "pid", getpid());
    int rc = link_send_message(&f->link, FRAME_HELLO, 0, m, e);
    message_free(m);
    if (rc == 0 && (rc = link_next(&f->link, &frame, GREETING_MS, e)) == 0)
        rc = err_set(e, ERR_TIMEOUT, "the other end does not greet");
    if (rc < 0)
        return rc;
    if (frame.type != FRAME_HELLO)
        return err_set(e, ERR_PROTOCOL, "the other end does not greet");
    rc = message_parse(&m, frame.payload, frame.len, e);
    if (rc < 0)
        return rc;
    f->seed = strtoull(message_text(m, "seed", ""), NULL, 10);
    f->silence_ms = message_int(m, "silence_ms", 0);
    if (message_int(m, "protocol", 0) != FEED_PROTOCOL || f->silence_ms < SIGN_MS ||
        f->silence_ms > FEED_SILENCE_MAX_MS)
        rc = err_set(e, ERR_VERSION, "the other end speaks another protocol");
    message_free(m);
    return rc;
}

static int
serve(struct feeder *f, struct err *e)
{
    struct frame frame;
    int rc = greet(f, e);
    while (rc == 0) {
        rc = link_next(&f->link, &frame, f->silence_ms, e);
        if (rc == 0)
            rc = err_set(e, ERR_TIMEOUT, "the other end is silent");
        else if (rc == 1)
            rc = serve_frame(f, &frame, e);
    }
    return rc;
}

/* The channel is nobody else's: neither a stray print nor a child gets at it. */
static int
take_channel(struct feeder *f, struct err *e)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    f->link.in = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
    f->link.out = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
    if (null < 0 || f->link.in < 0 || f->link.out < 0 || dup2(null, STDIN_FILENO) < 0 ||
        dup2(STDERR_FILENO, STDOUT_FILENO) < 0)
        return err_sys(e, errno, "cannot take over standard input and output");
    close(null);
    return 0;
}

int
feeder_main(void)
{
    struct feeder f = {.link = {.peer = "the target's host",
                                .stall_ms = WRITE_STALL_MS,
                                .stopped = feeder_holder_gone,
                                .arg = &f},
                       .holder = -1};
    struct err e = {0};
    signal(SIGPIPE, SIG_IGN);
    conn_clear_environment();
    int rc = take_channel(&f, &e);
    if (rc == 0) {
        link_init(&f.link);
        rc = serve(&f, &e);
        if (rc == ERR_CANCELLED) /* to the target it is a connection that broke */
            err_set(&e, ERR_CONNECT, "the feeder that holds the backup has ended");
        /* Whoever is still there is told. The end of its input is how a feeder ends. */
        if (rc != ERR_CONNECT) {
            struct message *m = message_of_error(&e);
            link_send_message(&f.link, FRAME_FAIL, 0, m, NULL);
            message_free(m);
        }
        link_done(&f.link);
    }
    feeder_blocks_done(&f.blocks);
    feeder_source_done(&f);
    if (f.holder >= 0)
        close(f.holder);
    if (rc == ERR_CONNECT)
        return 0;
    fprintf(stderr, "moonrise feeder: %s\n", e.message);
    return 1;
}
