/*
 * The instance that a feeder stands beside: what source_remote.c asks is done here as on one's own host.
 */
#include "feed.h"
#include "feeder.h"
#include "moonrise/base/err.h"
#include "moonrise/pg/control.h"
#include "moonrise/wire/message.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What the order of a feeder is made of outlives the call. */
static int
keep_args(struct feeder *f, const struct message *args, struct err *e)
{
    char *text = message_format(args);
    int rc = message_parse(&f->args, text, strlen(text), e);
    free(text);
    return rc;
}

static void
set_number(struct message *m, const char *key, uint64_t value)
{
    char text[24]; /* JSON's numbers have 53 bits */
    snprintf(text, sizeof text, "%" PRIu64, value);
    message_set_text(m, key, text);
}

static void
set_place(struct message *m, const struct source_place *place)
{
    message_set_text(m, "real", place->path);
    set_number(m, "dev", place->dev);
    set_number(m, "ino", place->ino);
}

int
feeder_source(struct feeder *f, const struct message *args, struct message *out, struct err *e)
{
    const struct message *source = message_object(args, "source");
    if (f->has_source || !source || message_text(source, "host", NULL))
        return err_set(e, ERR_PROTOCOL, "'source' was called wrongly");
    int rc = keep_args(f, args, e);
    if (rc < 0)
        return rc;
    f->call = (struct agent_call){.op = "feed", .args = f->args, .cancel = &f->cancel};
    f->has_source = true;
    rc = order_init(&f->order, &f->call, 0, e);
    if (rc == 0)
        rc = source_open(&f->source, &f->order, e);
    if (rc < 0)
        return rc;
    set_number(out, "sysid", f->source.sysid);
    set_place(out, &f->source.home);
    message_set_text(out, "boot_id", f->source.boot_id);
    return 0;
}

/* What becomes of the session is told to the target, which says of its own source what is lost. */
static int
begin(struct source *s, struct message *out, struct err *e)
{
    int rc = source_begin(s, e);
    char lsn[LSN_TEXT_BYTES];
    if (rc == 0)
        message_set_text(out, "start_lsn", lsn_format(lsn, s->start_lsn));
    return rc;
}

static int
end(struct source *s, struct message *out, struct err *e)
{
    int rc = s->kind->end(s, e);
    if (rc == 0)
        message_set_text(out, "label", s->label);
    return rc;
}

static int
check(struct source *s, struct message *out, struct err *e)
{
    (void)out;
    return s->kind->check(s, e);
}

static int
keep(struct source *s, const struct message *args, struct message *out, struct err *e)
{
    struct source_wal wal = {.carried = message_bool(args, "carried", false)};
    int rc = lsn_parse(&wal.from, message_text(args, "from", ""), e);
    if (rc == 0)
        rc = s->kind->keep(s, &wal, e);
    if (rc < 0)
        return rc;
    set_number(out, "held", wal.held_bytes);
    set_number(out, "left", wal.left_bytes);
    return 0;
}

static int
spaces(struct source *s, struct message *out, struct err *e)
{
    int rc = source_spaces(s, e);
    for (size_t i = 0; rc == 0 && i < s->space_count; i++) {
        struct message *item = message_new();
        message_set_text(item, "oid", s->spaces[i].oid);
        message_set_text(item, "path", s->spaces[i].path);
        set_place(item, &s->spaces[i].place);
        message_append_take(out, "spaces", item);
    }
    return rc;
}

static int
files(struct source *s, struct message *out, struct err *e)
{
    int rc = source_files(s, e);
    for (size_t i = 0; rc == 0 && i < s->file_count; i++) {
        struct str hex = STR_INIT;
        struct message *item = message_new();
        feed_put_hex(&hex, s->files[i].text.data, s->files[i].text.len);
        message_set_text(item, "name", s->files[i].name);
        message_set_text(item, "hex", hex.data);
        message_append_take(out, "files", item);
        str_free(&hex);
    }
    return rc;
}

static int
lives(struct source *s, struct message *out, struct err *e)
{
    bool yes;
    int rc = source_lives(&yes, s, e);
    if (rc == 0)
        message_set_bool(out, "lives", yes);
    return rc;
}

static int
control(struct source *s, struct message *out, struct err *e)
{
    struct control c;
    struct str hex = STR_INIT;
    char *path = mem_printf("%s/global/pg_control", s->datadir);
    uint8_t *image = mem_alloc(CONTROL_FILE_BYTES);
    int rc = control_read(&c, path, image, e);
    if (rc == 0) {
        feed_put_hex(&hex, image, CONTROL_FILE_BYTES);
        message_set_text(out, "image", hex.data);
    }
    str_free(&hex);
    free(image);
    free(path);
    return rc;
}

static const struct {
    const char *name;
    int (*run)(struct source *s, struct message *out, struct err *e);
} operations[] = {
    {"begin", begin}, {"check", check}, {"end", end},         {"spaces", spaces},
    {"files", files}, {"lives", lives}, {"control", control},
};

int
feeder_source_call(struct feeder *f, const struct link_call *call, struct message *out,
                   struct err *e)
{
    const char *op = call->op;
    if (strcmp(op, "keep") == 0 && f->source.datadir)
        return keep(&f->source, call->args, out, e);
    for (size_t i = 0; i < sizeof operations / sizeof *operations; i++) {
        if (strcmp(operations[i].name, op) != 0)
            continue;
        if (!f->source.datadir)
            return err_set(e, ERR_PROTOCOL, "'%s' before 'source'", op);
        return operations[i].run(&f->source, out, e);
    }
    return err_set(e, ERR_PROTOCOL, "a feeder knows no operation '%.32s'", op);
}

void
feeder_source_done(struct feeder *f)
{
    if (f->has_source) {
        source_close(&f->source);
        order_done(&f->order);
    }
    message_free(f->args);
}
