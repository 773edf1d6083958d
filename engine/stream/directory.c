#include "directory.h"

#include "moonrise/base/bytes.h"
#include "moonrise/base/err.h"
#include "moonrise/base/str.h"
#include "moonrise/pg/version.h"

#include "codec.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_DIGITS = WAL_NAME_BYTES - 1 };

struct listing {
    struct segment_name *names;
    size_t count;
};

bool
segment_name_read(struct segment_name *out, const char *name, uint32_t segment_bytes)
{
    static const enum stream_codec codecs[] = {STREAM_PLAIN, STREAM_GZIP, STREAM_LZ4};
    uint32_t timeline, high, low;
    if (strspn(name, "0123456789ABCDEF") != NAME_DIGITS ||
        sscanf(name, "%8" SCNx32 "%8" SCNx32 "%8" SCNx32, &timeline, &high, &low) != 3)
        return false;
    uint64_t lsn = (uint64_t)high << 32 | (uint64_t)low * segment_bytes;
    if (timeline == 0 || (uint64_t)low * segment_bytes > UINT32_MAX)
        return false;
    for (size_t i = 0; i < sizeof(codecs) / sizeof(codecs[0]); i++) {
        const char *suffix = codec_suffix(codecs[i]), *rest = name + NAME_DIGITS;
        size_t len = strlen(suffix);
        bool partial = strncmp(rest, suffix, len) == 0 && strcmp(rest + len, ".partial") == 0;
        if (!partial && strcmp(rest, suffix) != 0)
            continue;
        *out = (struct segment_name){timeline, lsn, codecs[i], partial};
        return true;
    }
    return false;
}

/* The highest first; of the same segment the one that is whole. */
static int
by_height(const void *a, const void *b)
{
    const struct segment_name *x = a, *y = b;
    if (x->lsn != y->lsn)
        return x->lsn < y->lsn ? 1 : -1;
    if (x->timeline != y->timeline)
        return x->timeline < y->timeline ? 1 : -1;
    return (int)x->partial - (int)y->partial;
}

static int
list(struct listing *out, const struct directory_spec *spec, struct err *e)
{
    DIR *dir = opendir(spec->path);
    if (!dir)
        return err_sys(e, errno, "%s", spec->path);
    struct dirent *entry;
    struct segment_name name;
    size_t room = 0;
    while (errno = 0, (entry = readdir(dir)) != NULL) {
        if (!segment_name_read(&name, entry->d_name, spec->segment_bytes))
            continue;
        if (out->count == room) {
            room = room ? 2 * room : 64;
            out->names = mem_realloc(out->names, room * sizeof(*out->names));
        }
        out->names[out->count++] = name;
    }
    int rc = errno != 0 ? err_sys(e, errno, "%s", spec->path) : 0;
    closedir(dir);
    if (out->count > 0)
        qsort(out->names, out->count, sizeof(*out->names), by_height);
    return rc;
}

static char *
file_of(const struct directory_spec *spec, const struct segment_name *n)
{
    char name[WAL_NAME_BYTES];
    wal_segment_name(name, n->timeline, n->lsn, spec->segment_bytes);
    return mem_printf("%s/%s%s%s", spec->path, name, codec_suffix(n->codec),
                      n->partial ? ".partial" : "");
}

/* Whether a file holds what its name says, and of which system its WAL is (0: it does not tell). */
static int
look_into(uint64_t *told, bool *sound, const struct directory_spec *spec,
          const struct segment_name *n, struct err *e)
{
    struct codec_content content;
    char *path = file_of(spec, n);
    int rc = codec_read(&content, path, n->codec, n->partial ? 0 : spec->segment_bytes, e);
    *sound = rc == 0 && (n->partial || (content.whole && content.bytes == spec->segment_bytes));
    bool written = rc == 0 && version_of_wal_magic(bytes_get16(content.head)) &&
                   bytes_get64(content.head + 8) == n->lsn;
    *told = written ? bytes_get64(content.head + 24) : 0;
    if (rc == 0 && !*sound)
        spec->ignored(spec->arg, strrchr(path, '/') + 1);
    free(path);
    return rc;
}

static const struct timeline_span *
span_of(const struct timeline_history *h, uint32_t timeline)
{
    for (size_t i = 0; i < h->count; i++)
        if (h->spans[i].timeline == timeline)
            return &h->spans[i];
    return NULL;
}

static int
check_system(uint64_t found, const struct directory_spec *spec, struct err *e)
{
    if (found == 0 || found == spec->system_identifier)
        return 0;
    err_set(e, ERR_REFUSED, "%s holds WAL of system %" PRIu64 ", and the server is system %" PRIu64,
            spec->path, found, spec->system_identifier);
    return err_hint(e, "receive into another directory");
}

/* Looks from the highest file on: the first sound one says where to go on, and then it is only asked whose
 * WAL this is. What lies behind the point where its timeline ended is nobody's future any more. */
static int
search(struct directory_end *out, const struct listing *all, const struct directory_spec *spec,
       struct err *e)
{
    uint64_t system_identifier = 0;
    for (size_t i = 0; i < all->count && !(out->found && system_identifier); i++) {
        const struct segment_name *n = &all->names[i];
        const struct timeline_span *span = span_of(spec->history, n->timeline);
        uint64_t told;
        bool sound;
        int rc = look_into(&told, &sound, spec, n, e);
        if (rc < 0)
            return rc;
        if (sound && !system_identifier)
            system_identifier = told;
        if (!sound || !span || n->lsn >= span->end || out->found)
            continue;
        out->found = true;
        out->timeline = n->timeline;
        out->lsn = n->partial ? n->lsn : n->lsn + spec->segment_bytes;
    }
    return check_system(system_identifier, spec, e);
}

static int
check_timelines(const struct listing *all, const struct directory_spec *spec, struct err *e)
{
    uint32_t newest = spec->history->spans[spec->history->count - 1].timeline;
    for (size_t i = 0; i < all->count; i++)
        if (all->names[i].timeline > newest) {
            err_set(e, ERR_REFUSED,
                    "%s holds WAL of timeline %" PRIu32 ", and the server is on timeline %" PRIu32,
                    spec->path, all->names[i].timeline, newest);
            return err_hint(e, "the server is an older copy of the one that was received from, or "
                               "it was replaced: receive into another directory");
        }
    return 0;
}

int
directory_read(struct directory_end *out, const struct directory_spec *spec, struct err *e)
{
    struct listing all = {0};
    memset(out, 0, sizeof(*out));
    int rc = list(&all, spec, e);
    if (rc == 0)
        rc = search(out, &all, spec, e);
    /* Another system's timelines would say nothing. */
    if (rc == 0)
        rc = check_timelines(&all, spec, e);
    free(all.names);
    return rc;
}

int
directory_follow(uint32_t *timeline, lsn_t *lsn, const struct directory_spec *spec, struct err *e)
{
    const struct timeline_span *span = span_of(spec->history, *timeline);
    if (!span)
        return err_set(e, ERR_REFUSED, "timeline %" PRIu32 " is not in the server's history",
                       *timeline);
    for (; *lsn >= span->end; span++) {
        *timeline = span[1].timeline;
        *lsn = span->end;
    }
    *lsn -= *lsn % spec->segment_bytes;
    return 0;
}
