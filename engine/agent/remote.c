#include "remote.h"

#include "feed.h"
#include "moonrise/base/err.h"
#include "moonrise/wire/message.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static int
send_greeting(struct remote *r, const struct remote_spec *spec, struct err *e)
{
    char seed[24];
    struct message *m = message_new();
    snprintf(seed, sizeof seed, "%" PRIu64, spec->seed); /* JSON's numbers have 53 bits */
    message_set_int(m, "protocol", FEED_PROTOCOL);
    message_set_text(m, "seed", seed);
    message_set_int(m, "silence_ms", spec->silence_ms);
    int rc = link_send_message(&r->link, FRAME_HELLO, 0, m, e);
    message_free(m);
    return rc;
}

static int
take_greeting(struct remote *r, struct err *e)
{
    struct frame f;
    struct message *m = NULL;
    int rc = link_next(&r->link, &f, -1, e);
    if (rc < 0)
        return rc;
    if (f.type != FRAME_HELLO)
        return err_set(e, ERR_PROTOCOL, "%s does not greet", r->peer);
    rc = message_parse(&m, f.payload, f.len, e);
    if (rc == 0 && message_int(m, "protocol", 0) != FEED_PROTOCOL) {
        rc = err_set(e, ERR_VERSION, "the moonrise of %s speaks protocol %" PRId64 ", this one %d",
                     r->peer, message_int(m, "protocol", 0), FEED_PROTOCOL);
        err_hint(e, "install the same version of moonrise on every host");
    }
    /* A terminal's echo, say: a feeder is told the seed. */
    if (rc == 0 && message_text(m, "seed", NULL)) {
        rc = err_set(e, ERR_PROTOCOL, "%s sends back what it is sent: it is no moonrise", r->peer);
        err_hint(e, "install this moonrise there: moonrise deploy %s", r->way->host);
    }
    if (rc == 0)
        r->pid = message_int(m, "pid", 0);
    message_free(m);
    return rc;
}

int
remote_open(struct remote *r, const struct remote_spec *spec, struct err *e)
{
    int fd;
    *r = (struct remote){.way = spec->way};
    snprintf(r->peer, sizeof r->peer, "host %.255s", spec->way->host);
    int rc = spec->way->open(spec->way, spec->cancel, &r->process, &fd, e);
    if (rc < 0) {
        r->way = NULL;
        return rc;
    }
    r->started = true;
    r->link = (struct link){.in = fd,
                            .out = fd,
                            .peer = r->peer,
                            .stall_ms = spec->stall_ms ? spec->stall_ms : LINK_STALL_MS,
                            .stopped = spec->stopped,
                            .arg = spec->arg};
    link_init(&r->link);
    rc = send_greeting(r, spec, e);
    if (rc == 0)
        rc = take_greeting(r, e);
    if (rc < 0) {
        remote_wrap(r, rc, e);
        remote_close(r);
    }
    return rc;
}

int
remote_call(struct message **out, struct remote *r, const struct link_call *call, struct err *e)
{
    struct message *m;
    int rc = link_call(&m, &r->link, call, e);
    if (out)
        *out = m;
    else
        message_free(m);
    return rc < 0 ? remote_wrap(r, rc, e) : 0;
}

int
remote_wrap(struct remote *r, int rc, struct err *e)
{
    struct err why = {0};
    if (rc != ERR_CONNECT || !e || !r->way->why)
        return rc;
    r->way->why(r->process, &why);
    if (why.code == 0)
        return rc;
    err_set(e, why.code == ERR_CHILD ? ERR_CONNECT : why.code, "%s", why.message);
    err_hint(e, "%s", why.hint);
    return e->code;
}

void
remote_close(struct remote *r)
{
    if (r->way) {
        link_done(&r->link);
        r->way->close(r->process);
    }
    r->way = NULL;
}
