/*
 * Lists and blocks of a feeder.
 */
#include "feed.h"
#include "feeder.h"
#include "moonrise/base/err.h"
#include "moonrise/wire/message.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <unistd.h>

#define LIST_FRAME_BYTES (256u << 10)

static bool
never_stopped(void *arg)
{
    (void)arg;
    return false;
}

static int
read_spaces(struct feeder_blocks *b, const struct message *args, struct err *e)
{
    size_t count = message_count(args, "tablespaces");
    b->spaces = mem_zalloc((count + 1) * sizeof(*b->spaces));
    b->spec.tablespaces = b->spaces;
    for (size_t i = 0; i < count; i++) {
        const struct message *item = message_item(args, "tablespaces", i);
        const char *oid = item ? message_text(item, "oid", "") : "";
        const char *path = item ? message_text(item, "path", "") : "";
        if (!patch_path_ok("", oid) || *path != '/')
            return err_set(e, ERR_PROTOCOL, "tablespace '%.32s' is none", oid);
        b->spaces[i].oid = mem_strdup(oid);
        b->spaces[i].source = mem_strdup(path);
        b->spec.tablespace_count++;
    }
    return 0;
}

/* A link that is cut says nothing, and a target may be silent for long while it writes: that the backup's own
 * feeder is there, which is asked every second, shows that somebody still copies. */
static int
watch_holder(struct feeder *f, int64_t pid, struct err *e)
{
    if (pid == 0)
        return 0;
    if (pid < 0 || pid > INT32_MAX || atomic_load(&f->holder) >= 0)
        return err_set(e, ERR_PROTOCOL, "'feed' named a holder that makes no sense");
    int fd = pidfd_open((pid_t)pid, 0);
    /* A kernel, or a container, without it: then its own silence ends this one, later. */
    if (fd < 0 && (errno == ENOSYS || errno == EPERM || errno == EACCES))
        return 0;
    if (fd < 0 && errno == ESRCH)
        return err_set(e, ERR_NOTFOUND, "the feeder that holds the backup has ended");
    if (fd < 0)
        return err_sys(e, errno, "watching process %lld", (long long)pid);
    atomic_store(&f->holder, fd);
    return 0;
}

bool
feeder_holder_gone(void *feeder)
{
    struct feeder *f = feeder;
    struct pollfd ended = {.fd = atomic_load(&f->holder), .events = POLLIN};
    return ended.fd >= 0 && poll(&ended, 1, 0) == 1;
}

int
feeder_feed(struct feeder *f, const struct message *args, struct err *e)
{
    struct feeder_blocks *b = &f->blocks;
    const char *datadir;
    uint32_t window;
    if (b->source)
        return err_set(e, ERR_PROTOCOL, "'feed' was called twice");
    int rc = message_need_text(args, "datadir", &datadir, e);
    if (rc == 0 && *datadir != '/')
        rc = err_set(e, ERR_PROTOCOL, "datadir is not absolute");
    if (rc < 0)
        return rc;
    feeder_blocks_done(b);
    b->spec.source_dir = mem_strdup(datadir);
    rc = read_spaces(b, args, e);
    if (rc == 0)
        rc = watch_holder(f, message_int(args, "holder", 0), e);
    if (rc == 0)
        rc = patch_source_local(&b->source, &b->spec, e);
    if (rc < 0)
        return rc;
    struct patch_link link = {.stopped = never_stopped};
    rc = b->source->connect(b->source, &b->stream, &window, &link, e);
    b->buffer = aligned_alloc(PATCH_BUFFER_ALIGN, PATCH_BUFFER_ALIGN + PATCH_RANGE_BYTES);
    must(b->buffer);
    str_init(&b->file_name);
    pace_init(&b->pace, FEED_BLOCKS_BYTES);
    return rc;
}

int
feeder_list(struct feeder *f, struct err *e)
{
    struct feeder_blocks *b = &f->blocks;
    if (!b->source || b->list)
        return err_set(e, ERR_PROTOCOL, "'list' was called at the wrong time");
    b->list = patch_list_new();
    b->spec.cancel = &f->cancel;
    int rc = b->source->list(b->source, b->list, e);
    b->spec.cancel = NULL;
    return rc;
}

/* A part of the list on its way: FRAME_HEAD_BYTES, then the payload. */
struct list_part {
    struct feeder *feeder;
    struct str bytes;
};

static void
part_clear(struct list_part *part)
{
    static const char head[FRAME_HEAD_BYTES];
    str_clear(&part->bytes);
    str_append(&part->bytes, head, sizeof(head));
}

static int
part_send(struct list_part *part, struct err *e)
{
    struct feeder *f = part->feeder;
    struct pace_frame frame;
    int64_t blocked = f->link.blocked_ns;
    if (part->bytes.len == FRAME_HEAD_BYTES)
        return 0;
    pace_begin(&frame);
    frame.frame = (struct frame){.type = FRAME_LIST,
                                 .payload = part->bytes.data + FRAME_HEAD_BYTES,
                                 .len = part->bytes.len - FRAME_HEAD_BYTES};
    pace_pack(&f->blocks.pace, &frame);
    int rc = link_write(&f->link, frame.bytes, frame.len, e);
    pace_sent(&f->blocks.pace, &frame, f->link.blocked_ns - blocked);
    part_clear(part);
    return rc;
}

static int
part_dir(void *arg, const struct patch_listed_dir *dir, struct err *e)
{
    struct list_part *part = arg;
    feed_put_dir(&part->bytes, dir);
    return part->bytes.len > LIST_FRAME_BYTES ? part_send(part, e) : 0;
}

static int
part_file(void *arg, const struct patch_listed_file *file, struct err *e)
{
    struct list_part *part = arg;
    feed_put_file(&part->bytes, file);
    return part->bytes.len > LIST_FRAME_BYTES ? part_send(part, e) : 0;
}

int
feeder_send_list(struct feeder *f, struct err *e)
{
    struct list_part part = {.feeder = f, .bytes = STR_INIT};
    struct patch_list_visitor visitor = {part_dir, part_file, &part};
    part_clear(&part);
    int rc = patch_list_visit(f->blocks.list, &visitor, e);
    if (rc == 0)
        rc = part_send(&part, e);
    str_free(&part.bytes);
    patch_list_free(f->blocks.list);
    f->blocks.list = NULL;
    return rc;
}

static void
close_file(struct feeder_blocks *b)
{
    if (b->file)
        b->source->close(b->source, b->file);
    b->file = NULL;
}

/* Questions about one file come one after the other, so it stays open. ERR_NOTFOUND. */
static int
open_file(struct feeder_blocks *b, const struct feed_ask *ask, struct err *e)
{
    struct str name = STR_INIT;
    struct patch_name what = {.root = ask->root, .dir = ask->dir, .name = ask->name};
    if (ask->root > (uint32_t)b->spec.tablespace_count)
        return err_set(e, ERR_PROTOCOL, "there is no tablespace %u", ask->root);
    str_printf(&name, "%u/%s/%s", ask->root, ask->dir, ask->name);
    if (b->file && strcmp(name.data, b->file_name.data) == 0) {
        str_free(&name);
        return 0;
    }
    close_file(b);
    str_free(&b->file_name);
    b->file_name = name;
    return b->source->open(b->source, &b->file, &what, e);
}

/* Reads what is asked for, and compares. */
static int
read_blocks(struct feeder *f, const struct feed_ask *ask, struct patch_answer *answer,
            struct err *e)
{
    struct feeder_blocks *b = &f->blocks;
    int rc = open_file(b, ask, e);
    answer->gone = rc == ERR_NOTFOUND;
    if (rc < 0)
        return rc == ERR_NOTFOUND ? 0 : rc;
    struct patch_ask all = {.file = b->file, .offset = ask->offset, .bytes = ask->bytes};
    struct patch_hashed have = {f->seed, ask->hashes, ask->have_bytes};
    rc = b->source->ask(b->stream, &all, e);
    if (rc == 0)
        rc = b->source->answer(b->stream, answer, e);
    if (rc == 0 && ask->have_bytes)
        patch_answer_compare_hashes(answer, &have);
    return rc;
}

int
feeder_ask(struct feeder *f, const struct frame *frame, struct err *e)
{
    struct feeder_blocks *b = &f->blocks;
    struct feed_ask ask;
    struct pace_frame out;
    uint8_t *payload;
    pace_begin(&out);
    if (!b->source || frame->packing != FRAME_PLAIN)
        return err_set(e, ERR_PROTOCOL, "a question came at the wrong time");
    int rc = feed_get_ask(&ask, frame->payload, frame->len, e);
    if (rc < 0)
        return rc;
    struct patch_answer answer = {.data = b->buffer + PATCH_BUFFER_ALIGN};
    rc = read_blocks(f, &ask, &answer, e);
    if (rc < 0)
        return rc;
    size_t len = feed_put_blocks(&payload, &answer);
    out.frame =
        (struct frame){.type = FRAME_BLOCKS, .id = frame->id, .payload = payload, .len = len};
    int64_t blocked = f->link.blocked_ns;
    pace_pack(&b->pace, &out);
    rc = len == FEED_HEAD_BYTES ? link_hold(&f->link, &out.frame, e)
                                : link_write(&f->link, out.bytes, out.len, e);
    pace_sent(&b->pace, &out, f->link.blocked_ns - blocked);
    return rc;
}

void
feeder_blocks_done(struct feeder_blocks *b)
{
    if (b->source) {
        close_file(b);
        b->source->disconnect(b->stream);
        b->source->free(b->source);
        pace_done(&b->pace);
        str_free(&b->file_name);
    }
    for (int i = 0; i < b->spec.tablespace_count; i++) {
        free((char *)b->spaces[i].oid);
        free((char *)b->spaces[i].source);
    }
    free(b->spaces);
    free((char *)b->spec.source_dir);
    patch_list_free(b->list);
    free(b->buffer);
    *b = (struct feeder_blocks){0};
}
