#include "moonrise/wire/relay.h"

#include "relay_leg.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/socket.h>

#define TICK_MS     100
#define STREAMS_MAX 64

/* Shared by its owner and the threads of its streams; the last one frees it. */
struct relay {
    struct relay_spec spec;
    atomic_bool stop;
    pthread_mutex_t lock; /* all that follows */
    int users;
    struct err why;
};

static int begin_stream(struct relay *r, struct err *e);

static const char **
copy_words(const char *const *words)
{
    size_t count = 0;
    while (words[count])
        count++;
    const char **copy = mem_zalloc((count + 1) * sizeof(*copy));
    for (size_t i = 0; i < count; i++)
        copy[i] = mem_strdup(words[i]);
    return copy;
}

static struct relay_leg
copy_leg(const struct relay_leg *leg)
{
    return (struct relay_leg){.host = leg->host ? mem_strdup(leg->host) : NULL,
                              .argv = copy_words(leg->argv)};
}

static void
free_leg(struct relay_leg *leg)
{
    for (size_t i = 0; leg->argv[i]; i++)
        free((char *)leg->argv[i]);
    free((void *)leg->argv);
    free((char *)leg->host);
}

static void
drop(struct relay *r)
{
    pthread_mutex_lock(&r->lock);
    bool last = --r->users == 0;
    pthread_mutex_unlock(&r->lock);
    if (!last)
        return;
    pthread_mutex_destroy(&r->lock);
    free_leg(&r->spec.source);
    free_leg(&r->spec.target);
    free(r);
}

/* The first failure is kept: those after it may be its consequences. */
static void
note_why(struct relay *r, const struct err *why)
{
    pthread_mutex_lock(&r->lock);
    if (why->code && r->why.code == 0 && !atomic_load(&r->stop))
        r->why = *why;
    pthread_mutex_unlock(&r->lock);
}

/* Until the target has begun to speak, or has gone. */
static int
await_word(struct relay *r, struct leg *target, struct err *e)
{
    struct pollfd fd = {.fd = leg_fd(target), .events = POLLIN};
    char byte;
    while (fd.revents == 0) {
        if (atomic_load(&r->stop))
            return err_set(e, ERR_CANCELLED, "the relay was closed");
        if (poll(&fd, 1, TICK_MS) < 0 && errno != EINTR)
            return err_sys(e, errno, "waiting for a stream");
    }
    if (recv(fd.fd, &byte, 1, MSG_PEEK) == 1)
        return 0;
    err_set(e, ERR_CONNECT, "%s has ended the stream before it began",
            r->spec.target.host ? r->spec.target.host : "this host");
    leg_why(target, e);
    return e->code;
}

static int
relay_stream(struct relay *r, struct leg *target, struct err *e)
{
    struct leg source;
    int rc = await_word(r, target, e);
    if (rc < 0)
        return rc;
    rc = leg_open(&source, &r->spec.source, r->spec.connect_ms, &r->stop, e);
    if (rc < 0)
        return rc;
    /* The next one is on its way while this one is used. */
    rc = begin_stream(r, e);
    const struct relay_end there = {leg_fd(&source), leg_fd(&source)};
    const struct relay_end here = {leg_fd(target), leg_fd(target)};
    if (rc == 0)
        rc = relay_pump(&here, &there, &r->stop, e);
    if (rc == 0) {
        *e = (struct err){0};
        leg_why(&source, e);
        rc = e->code;
    }
    leg_close(&source);
    return rc;
}

static void *
stream_thread(void *arg)
{
    struct relay *r = arg;
    struct leg target;
    struct err e = {0};
    int rc = leg_open(&target, &r->spec.target, r->spec.connect_ms, &r->stop, &e);
    if (rc == 0) {
        rc = relay_stream(r, &target, &e);
        /* Before the target sees the end, so that whoever hears of it from there finds the reason. */
        if (rc < 0)
            note_why(r, &e);
        leg_close(&target);
    } else {
        note_why(r, &e);
    }
    drop(r);
    return NULL;
}

static int
begin_stream(struct relay *r, struct err *e)
{
    pthread_t thread;
    pthread_mutex_lock(&r->lock);
    bool many = r->users > STREAMS_MAX;
    r->users += !many;
    pthread_mutex_unlock(&r->lock);
    if (many)
        return err_set(e, ERR_LIMIT, "more than %d streams are relayed already", STREAMS_MAX);
    int sys = pthread_create(&thread, NULL, stream_thread, r);
    if (sys != 0) {
        drop(r);
        return err_sys(e, sys, "cannot start a thread");
    }
    pthread_detach(thread);
    return 0;
}

int
relay_start(struct relay **out, const struct relay_spec *spec, struct err *e)
{
    struct relay *r = mem_zalloc(sizeof(*r));
    r->spec = (struct relay_spec){.source = copy_leg(&spec->source),
                                  .target = copy_leg(&spec->target),
                                  .connect_ms = spec->connect_ms};
    r->users = 1;
    must(pthread_mutex_init(&r->lock, NULL) == 0);
    int rc = begin_stream(r, e);
    if (rc < 0)
        drop(r);
    else
        *out = r;
    return rc;
}

void
relay_why(struct relay *r, struct err *e)
{
    pthread_mutex_lock(&r->lock);
    *e = r->why;
    pthread_mutex_unlock(&r->lock);
}

void
relay_close(struct relay *r)
{
    if (!r)
        return;
    atomic_store(&r->stop, true);
    drop(r);
}
