#include "channel.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"
#include "moonrise/loop/child.h"

#include <stdlib.h>
#include <string.h>

#define CHILD_WORD_BYTES 400 /* of its standard error, for the reason of its end */
/* To put its work down after its input has ended: longer than an agent gives itself (END_GRACE_MS). */
#define CHILD_GRACE_MS 12000

struct channel_to_child {
    struct channel base;
    struct child *child;
    struct str word; /* the end of its standard error */
};

static void
child_said(void *arg, const void *bytes, size_t len)
{
    struct channel_to_child *c = arg;
    if (len > 0)
        c->base.events.on_bytes(c->base.events.arg, bytes, len);
    else
        child_close_stdin(c->child);
}

static void
child_complained(void *arg, const void *bytes, size_t len)
{
    struct channel_to_child *c = arg;
    str_append(&c->word, bytes, len);
    if (c->word.len > CHILD_WORD_BYTES) {
        size_t excess = c->word.len - CHILD_WORD_BYTES;
        memmove(c->word.data, c->word.data + excess, CHILD_WORD_BYTES);
        c->word.len = CHILD_WORD_BYTES;
        c->word.data[c->word.len] = '\0';
    }
}

/* The last line of what it said, without its line break. */
static const char *
child_last_line(struct str *word)
{
    while (word->len > 0 && (unsigned char)word->data[word->len - 1] <= ' ')
        word->data[--word->len] = '\0';
    const char *line = strrchr(word->data, '\n');
    return line ? line + 1 : word->data;
}

static void
child_ended(void *arg, int exit_code, int signal)
{
    struct channel_to_child *c = arg;
    struct err why;
    const char *line = child_last_line(&c->word);
    const char *colon = *line ? ": " : "";
    if (signal)
        err_set(&why, ERR_CHILD, "the agent was ended by signal %d%s%s", signal, colon, line);
    else
        err_set(&why, exit_code == 127 ? ERR_NOTFOUND : ERR_CHILD,
                "the agent ended with code %d%s%s", exit_code, colon, line);
    c->base.events.on_end(c->base.events.arg, &why);
}

static void
child_channel_write(struct channel *base, const void *bytes, size_t len)
{
    child_write(((struct channel_to_child *)base)->child, bytes, len);
}

static size_t
child_channel_unsent(const struct channel *base)
{
    return child_unsent_bytes(((const struct channel_to_child *)base)->child);
}

static int
child_channel_pid(const struct channel *base)
{
    return child_pid(((const struct channel_to_child *)base)->child);
}

static void
child_channel_free(struct channel *base)
{
    struct channel_to_child *c = (struct channel_to_child *)base;
    child_end(c->child, CHILD_GRACE_MS);
    str_free(&c->word);
    free(c);
}

int
channel_child(struct channel **out, struct loop *l, const char *const *argv,
              const struct channel_events *ev, struct err *e)
{
    struct channel_to_child *c = mem_zalloc(sizeof(*c));
    c->base = (struct channel){child_channel_write, child_channel_unsent, child_channel_pid,
                               child_channel_free, *ev};
    str_init(&c->word);
    struct child_spec spec = {.argv = argv,
                              .pipe_stdin = true,
                              .on_stdout = child_said,
                              .on_stderr = child_complained,
                              .on_exit = child_ended,
                              .arg = c};
    int rc = child_start(&c->child, l, &spec, e);
    if (rc != 0) {
        free(c);
        return rc;
    }
    *out = &c->base;
    return 0;
}
