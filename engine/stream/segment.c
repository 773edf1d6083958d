#include "segment.h"

#include "moonrise/base/err.h"
#include "moonrise/base/io.h"
#include "moonrise/base/str.h"

#include "codec.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

struct segment {
    struct segment_spec spec;
    char *directory;
    char *path; /* under which it is written */
    int fd;
    bool named; /* its name is durable */
    uint32_t written;
    uint64_t file_bytes; /* where the next bytes of the file go */
    struct codec *codec; /* NULL: plain */
};

static char *
path_of(const struct segment *s, enum stream_codec codec, const char *suffix)
{
    char name[WAL_NAME_BYTES];
    wal_segment_name(name, s->spec.timeline, s->spec.begin_lsn, s->spec.bytes);
    return mem_printf("%s/%s%s%s", s->directory, name, codec_suffix(codec), suffix);
}

/* All of its room is taken now. Where the file system cannot do that zeroes are written. */
static int
take_room(struct segment *s, struct err *e)
{
    static const char zeroes[65536];
    if (fallocate(s->fd, 0, 0, s->spec.bytes) == 0)
        return 0;
    if (errno != EOPNOTSUPP && errno != ENOSYS && errno != EINTR)
        return err_sys(e, errno, "take %u bytes for %s", s->spec.bytes, s->path);
    for (uint32_t at = 0; at < s->spec.bytes; at += sizeof(zeroes)) {
        int rc = io_pwrite_full(s->fd, zeroes, sizeof(zeroes), at, e);
        if (rc < 0) {
            err_wrap(e, "%s", s->path);
            return rc;
        }
    }
    return 0;
}

/* A plain partial file keeps its bytes until they are written again: they are the same, and a server may
 * have been told that they are safe here. */
static int
prepare(struct segment *s, struct err *e)
{
    struct stat st;
    if (fstat(s->fd, &st) < 0)
        return err_sys(e, errno, "%s", s->path);
    if (!S_ISREG(st.st_mode) || (!s->codec && st.st_size > s->spec.bytes))
        return err_set(e, ERR_FORMAT, "%s is no partial segment of %u bytes", s->path,
                       s->spec.bytes);
    if (s->codec)
        return ftruncate(s->fd, 0) < 0 ? err_sys(e, errno, "empty %s", s->path) : 0;
    if (st.st_size == s->spec.bytes)
        return 0;
    int rc = take_room(s, e);
    /* Nothing is lost with a file that was empty. */
    if (rc < 0 && st.st_size == 0)
        unlink(s->path);
    return rc;
}

static void
segment_free(struct segment *s)
{
    if (s->fd >= 0)
        close(s->fd);
    codec_free(s->codec);
    free(s->path);
    free(s->directory);
    free(s);
}

int
segment_open(struct segment **out, const struct segment_spec *spec, struct err *e)
{
    struct segment *s = mem_zalloc(sizeof(*s));
    s->spec = *spec;
    s->directory = mem_strdup(spec->directory);
    s->path = path_of(s, spec->codec, ".partial");
    s->fd = open(s->path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, spec->mode);
    int rc = s->fd < 0 ? err_sys(e, errno, "open %s", s->path) : 0;
    if (rc == 0 && spec->codec != STREAM_PLAIN)
        rc = codec_new(&s->codec, spec->codec, spec->level, e);
    if (rc == 0)
        rc = prepare(s, e);
    if (rc < 0) {
        segment_free(s);
        return rc;
    }
    *out = s;
    return 0;
}

static int
put(struct segment *s, const void *bytes, size_t len, struct err *e)
{
    int rc = io_pwrite_full(s->fd, bytes, len, s->file_bytes, e);
    if (rc < 0) {
        err_wrap(e, "%s", s->path);
        return rc;
    }
    s->file_bytes += len;
    return 0;
}

static int
encode(struct segment *s, const void *bytes, size_t len, enum codec_step step, struct err *e)
{
    int rc = codec_put(s->codec, bytes, len, step, e);
    const struct str *encoded = codec_output(s->codec);
    return rc < 0 ? rc : put(s, encoded->data, encoded->len, e);
}

int
segment_write(struct segment *s, const void *bytes, size_t len, struct err *e)
{
    must(len <= s->spec.bytes - s->written);
    int rc = s->codec ? encode(s, bytes, len, CODEC_MORE, e) : put(s, bytes, len, e);
    if (rc == 0)
        s->written += (uint32_t)len;
    return rc;
}

static int
sync_file(struct segment *s, struct err *e)
{
    if (!s->spec.sync)
        return 0;
    return fsync(s->fd) < 0 ? err_sys(e, errno, "flush %s", s->path) : 0;
}

int
segment_flush(struct segment *s, struct err *e)
{
    int rc = s->codec ? encode(s, "", 0, CODEC_FLUSH, e) : 0;
    if (rc == 0)
        rc = sync_file(s, e);
    if (rc == 0 && s->spec.sync && !s->named)
        rc = io_fsync_dir(s->directory, e);
    s->named |= rc == 0;
    return rc;
}

uint32_t
segment_written(const struct segment *s)
{
    return s->written;
}

/* The same segment under another codec, half of it or all: it is here now as it is wanted. */
static void
remove_others(const struct segment *s)
{
    static const enum stream_codec codecs[] = {STREAM_PLAIN, STREAM_GZIP, STREAM_LZ4};
    for (size_t i = 0; i < sizeof(codecs) / sizeof(codecs[0]); i++) {
        char *path = path_of(s, codecs[i], ".partial");
        if (codecs[i] != s->spec.codec)
            unlink(path);
        free(path);
    }
}

/* The file is durable before its name says that it is whole. */
static int
finish(struct segment *s, struct err *e)
{
    int rc = s->codec ? encode(s, "", 0, CODEC_END, e) : 0;
    if (rc == 0)
        rc = sync_file(s, e);
    if (rc < 0)
        return rc;
    if (s->written < s->spec.bytes)
        return s->spec.sync && !s->named ? io_fsync_dir(s->directory, e) : 0;
    char *path = path_of(s, s->spec.codec, "");
    if (rename(s->path, path) < 0)
        rc = err_sys(e, errno, "rename %s to %s", s->path, path);
    else if (s->spec.sync)
        rc = io_fsync_dir(s->directory, e);
    if (rc == 0)
        remove_others(s);
    free(path);
    return rc;
}

int
segment_close(struct segment *s, struct err *e)
{
    if (!s)
        return 0;
    int rc = finish(s, e);
    segment_free(s);
    return rc;
}
