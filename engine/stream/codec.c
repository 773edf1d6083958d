#include "codec.h"

#include "moonrise/base/err.h"
#include "moonrise/base/io.h"
#include "moonrise/base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <lz4frame.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

enum { CHUNK_BYTES = 65536, GZIP_WINDOW = 15 + 16 /* deflate's largest, in gzip's frame */ };

struct codec {
    enum stream_codec kind;
    z_stream gzip;
    LZ4F_cctx *lz4;
    LZ4F_preferences_t preferences;
    bool begun; /* the LZ4 frame has its header */
    uint8_t *buffer;
    size_t room;
    struct str output;
};

const char *
codec_suffix(enum stream_codec kind)
{
    static const char *const suffixes[] = {
        [STREAM_PLAIN] = "", [STREAM_GZIP] = ".gz", [STREAM_LZ4] = ".lz4"};
    return suffixes[kind];
}

int
codec_new(struct codec **out, enum stream_codec kind, int level, struct err *e)
{
    struct codec *c = mem_zalloc(sizeof(*c));
    must(kind != STREAM_PLAIN);
    c->kind = kind;
    str_init(&c->output);
    c->preferences.compressionLevel = level;
    bool made = kind == STREAM_GZIP
                    ? deflateInit2(&c->gzip, level ? level : Z_DEFAULT_COMPRESSION, Z_DEFLATED,
                                   GZIP_WINDOW, 8, Z_DEFAULT_STRATEGY) == Z_OK
                    : !LZ4F_isError(LZ4F_createCompressionContext(&c->lz4, LZ4F_VERSION));
    if (!made) {
        free(c);
        return err_set(e, ERR_LIMIT, "no memory to compress with");
    }
    *out = c;
    return 0;
}

/* Room for `len` bytes that are then appended. */
static uint8_t *
room_for(struct codec *c, size_t len)
{
    if (len > c->room) {
        c->buffer = mem_realloc(c->buffer, len);
        c->room = len;
    }
    return c->buffer;
}

static int
put_gzip(struct codec *c, const void *bytes, size_t len, enum codec_step step)
{
    static const int flush[] = {
        [CODEC_MORE] = Z_NO_FLUSH, [CODEC_FLUSH] = Z_SYNC_FLUSH, [CODEC_END] = Z_FINISH};
    z_stream *z = &c->gzip;
    z->next_in = (Bytef *)bytes;
    z->avail_in = (uInt)len;
    do {
        z->next_out = room_for(c, CHUNK_BYTES);
        z->avail_out = CHUNK_BYTES;
        /* Z_BUF_ERROR: there was nothing left to do. */
        if (deflate(z, flush[step]) == Z_STREAM_ERROR)
            return -1;
        str_append(&c->output, c->buffer, CHUNK_BYTES - z->avail_out);
    } while (z->avail_out == 0);
    return 0;
}

/* Appends what an LZ4F function has made, or says that it failed. */
static int
lz4_made(struct codec *c, size_t n)
{
    if (LZ4F_isError(n))
        return -1;
    str_append(&c->output, c->buffer, n);
    return 0;
}

static int
put_lz4(struct codec *c, const void *bytes, size_t len, enum codec_step step)
{
    const LZ4F_preferences_t *prefs = &c->preferences;
    size_t bound = LZ4F_compressBound(len, prefs) + LZ4F_HEADER_SIZE_MAX;
    uint8_t *buffer = room_for(c, bound);
    int rc = 0;
    if (!c->begun)
        rc = lz4_made(c, LZ4F_compressBegin(c->lz4, buffer, bound, prefs));
    c->begun = true;
    if (rc == 0 && len > 0)
        rc = lz4_made(c, LZ4F_compressUpdate(c->lz4, buffer, bound, bytes, len, NULL));
    if (rc == 0 && step == CODEC_FLUSH)
        rc = lz4_made(c, LZ4F_flush(c->lz4, buffer, bound, NULL));
    if (rc == 0 && step == CODEC_END)
        rc = lz4_made(c, LZ4F_compressEnd(c->lz4, buffer, bound, NULL));
    return rc;
}

int
codec_put(struct codec *c, const void *bytes, size_t len, enum codec_step step, struct err *e)
{
    str_clear(&c->output);
    int rc = c->kind == STREAM_GZIP ? put_gzip(c, bytes, len, step) : put_lz4(c, bytes, len, step);
    return rc < 0 ? err_set(e, ERR_LIMIT, "the WAL cannot be compressed") : 0;
}

const struct str *
codec_output(const struct codec *c)
{
    return &c->output;
}

void
codec_free(struct codec *c)
{
    if (!c)
        return;
    if (c->kind == STREAM_GZIP)
        deflateEnd(&c->gzip);
    else
        LZ4F_freeCompressionContext(c->lz4);
    str_free(&c->output);
    free(c->buffer);
    free(c);
}

/* What a file is read with. */
struct decoder {
    enum stream_codec kind;
    z_stream gzip;
    LZ4F_dctx *lz4;
    bool broken, ended;
    uint8_t decoded[CHUNK_BYTES];
};

static void
content_add(struct codec_content *out, const uint8_t *bytes, size_t len)
{
    if (out->bytes < CODEC_HEAD_BYTES) {
        size_t room = CODEC_HEAD_BYTES - (size_t)out->bytes;
        memcpy(out->head + out->bytes, bytes, len < room ? len : room);
    }
    out->bytes += len;
}

static void
take_gzip(struct decoder *d, struct codec_content *out, uint8_t *bytes, size_t len)
{
    z_stream *z = &d->gzip;
    z->next_in = bytes;
    z->avail_in = (uInt)len;
    do {
        z->next_out = d->decoded;
        z->avail_out = CHUNK_BYTES;
        int rc = inflate(z, Z_NO_FLUSH);
        content_add(out, d->decoded, CHUNK_BYTES - z->avail_out);
        d->ended = rc == Z_STREAM_END;
        d->broken = rc != Z_OK && rc != Z_STREAM_END && rc != Z_BUF_ERROR;
    } while (!d->broken && !d->ended && (z->avail_out == 0 || z->avail_in > 0));
    d->broken |= z->avail_in > 0; /* behind its end */
}

static void
take_lz4(struct decoder *d, struct codec_content *out, const uint8_t *bytes, size_t len)
{
    while (len > 0 && !d->broken) {
        size_t wrote = CHUNK_BYTES, took = len;
        size_t rc = LZ4F_decompress(d->lz4, d->decoded, &wrote, bytes, &took, NULL);
        d->broken = LZ4F_isError(rc) || (took == 0 && wrote == 0);
        d->ended = rc == 0;
        if (!d->broken)
            content_add(out, d->decoded, wrote);
        bytes += took;
        len -= took;
    }
}

static bool
decoder_init(struct decoder *d, enum stream_codec kind)
{
    d->kind = kind;
    if (kind == STREAM_GZIP)
        return inflateInit2(&d->gzip, GZIP_WINDOW) == Z_OK;
    return kind == STREAM_PLAIN ||
           !LZ4F_isError(LZ4F_createDecompressionContext(&d->lz4, LZ4F_VERSION));
}

static void
decoder_done(struct decoder *d)
{
    if (d->kind == STREAM_GZIP)
        inflateEnd(&d->gzip);
    else if (d->kind == STREAM_LZ4)
        LZ4F_freeDecompressionContext(d->lz4);
}

/* What a plain file holds need not be read. */
static int
stat_content(struct codec_content *out, int fd, struct err *e)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return err_sys(e, errno, "stat");
    out->bytes = (uint64_t)st.st_size;
    out->whole = S_ISREG(st.st_mode);
    ssize_t n = io_pread_full(fd, out->head, CODEC_HEAD_BYTES, 0, e);
    return n < 0 ? (int)n : 0;
}

static int
read_content(struct codec_content *out, struct decoder *d, int fd, uint64_t limit, struct err *e)
{
    uint8_t chunk[16384];
    if (d->kind == STREAM_PLAIN)
        return stat_content(out, fd, e);
    while (out->bytes <= limit && !d->broken) {
        ssize_t n = read(fd, chunk, sizeof(chunk));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_sys(e, errno, "read");
        if (n == 0)
            break;
        if (d->kind == STREAM_GZIP)
            take_gzip(d, out, chunk, (size_t)n);
        else
            take_lz4(d, out, chunk, (size_t)n);
    }
    out->whole = d->ended && !d->broken;
    return 0;
}

int
codec_read(struct codec_content *out, const char *path, enum stream_codec kind, uint64_t limit,
           struct err *e)
{
    memset(out, 0, sizeof(*out));
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0)
        return err_sys(e, errno, "open %s", path);
    struct decoder *d = mem_zalloc(sizeof(*d));
    int rc = decoder_init(d, kind) ? read_content(out, d, fd, limit, e)
                                   : err_set(e, ERR_LIMIT, "no memory to read it with");
    if (rc < 0)
        err_wrap(e, "%s", path);
    decoder_done(d);
    free(d);
    close(fd);
    return rc;
}
