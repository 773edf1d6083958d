#include "moonrise/wire/frame.h"

#include "moonrise/base/bytes.h"
#include "moonrise/base/crc32c.h"
#include "moonrise/base/err.h"

#include <lz4.h>
#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#define READER_ROOM_BYTES (64 * 1024)
#define PACK_HEAD_BYTES   4
/* Stronger ones pack no block of a relation much better, and no link that is slower than this one is waits
 * for the processor. */
#define ZSTD_LEVEL 1

static const unsigned char frame_magic[4] = {0x89, 'M', 'R', 1};

void
frame_seal(void *at, const struct frame *f)
{
    unsigned char *head = at;
    must(f->len <= FRAME_PAYLOAD_BYTES);
    memset(head, 0, FRAME_HEAD_BYTES);
    memcpy(head, frame_magic, sizeof(frame_magic));
    bytes_put32(head + 4, (uint32_t)f->len);
    bytes_put32(head + 8, f->id);
    head[12] = (unsigned char)f->type;
    head[13] = (unsigned char)f->packing;
    bytes_put32(head + 16, crc32c(crc32c(0, head, 16), f->payload, f->len));
}

void
frame_append(struct str *out, const struct frame *f)
{
    unsigned char head[FRAME_HEAD_BYTES];
    frame_seal(head, f);
    str_append(out, head, sizeof(head));
    str_append(out, f->payload, f->len);
}

/* Forgets what was handed out. */
static void
reader_compact(struct frame_reader *r)
{
    if (r->taken == 0)
        return;
    memmove(r->bytes.data, r->bytes.data + r->taken, r->bytes.len - r->taken);
    r->bytes.len -= r->taken;
    r->taken = 0;
}

void
frame_reader_feed(struct frame_reader *r, const void *bytes, size_t len)
{
    reader_compact(r);
    str_append(&r->bytes, bytes, len);
}

void *
frame_reader_room(struct frame_reader *r, size_t *room)
{
    size_t have = r->bytes.len - r->taken, want = READER_ROOM_BYTES;
    if (r->begun && have >= FRAME_HEAD_BYTES) {
        /* frame_reader_next has looked at this head, or will: no more is reserved than it would allow. */
        size_t whole = bytes_get32(r->bytes.data + r->taken + 4);
        whole = FRAME_HEAD_BYTES + (whole < FRAME_PAYLOAD_BYTES ? whole : FRAME_PAYLOAD_BYTES);
        if (whole > have && whole - have > want)
            want = whole - have;
    }
    if (r->bytes.cap < r->bytes.len + want + 1) {
        reader_compact(r);
        str_reserve(&r->bytes, want);
    }
    *room = r->bytes.cap - r->bytes.len - 1;
    return r->bytes.data + r->bytes.len;
}

void
frame_reader_filled(struct frame_reader *r, size_t len)
{
    r->bytes.len += len;
    r->bytes.data[r->bytes.len] = '\0';
}

/* Passes over what comes before the first frame, but not over more than FRAME_SKIP_BYTES, however much has
 * come at once: true when its magic is next. */
static bool
frame_skip(struct frame_reader *r)
{
    while (r->bytes.len - r->taken >= sizeof(frame_magic) && r->skipped <= FRAME_SKIP_BYTES) {
        const char *at = r->bytes.data + r->taken;
        if (memcmp(at, frame_magic, sizeof(frame_magic)) == 0)
            return true;
        const char *next = memchr(at + 1, frame_magic[0], r->bytes.len - r->taken - 1);
        size_t n = next ? (size_t)(next - at) : r->bytes.len - r->taken;
        r->taken += n;
        r->skipped += n;
    }
    return false;
}

static int
frame_check(const unsigned char *head, struct err *e)
{
    if (memcmp(head, frame_magic, sizeof(frame_magic)) != 0)
        return err_set(e, ERR_PROTOCOL, "the other end sent something that is no frame");
    if (bytes_get32(head + 4) > FRAME_PAYLOAD_BYTES)
        return err_set(e, ERR_PROTOCOL, "the other end sent a frame of %u bytes",
                       bytes_get32(head + 4));
    bool binary = head[12] >= FRAME_ASK;
    if (head[12] < FRAME_HELLO || head[12] > FRAME_LIST || bytes_get16(head + 14) ||
        head[13] >= (binary ? FRAME_PACKINGS : FRAME_LZ4))
        return err_set(e, ERR_PROTOCOL, "the other end sent a frame of an unknown kind");
    return 0;
}

int
frame_reader_next(struct frame_reader *r, struct frame *out, struct err *e)
{
    if (!r->begun && !frame_skip(r)) {
        if (r->skipped > FRAME_SKIP_BYTES)
            return err_set(e, ERR_PROTOCOL, "the other end does not speak this protocol");
        return 0;
    }
    r->begun = true;
    size_t left = r->bytes.len - r->taken;
    if (left < FRAME_HEAD_BYTES)
        return 0;
    const unsigned char *head = (const unsigned char *)r->bytes.data + r->taken;
    int rc = frame_check(head, e);
    if (rc != 0)
        return rc;
    size_t len = bytes_get32(head + 4);
    if (left < FRAME_HEAD_BYTES + len)
        return 0;
    if (crc32c(crc32c(0, head, 16), head + FRAME_HEAD_BYTES, len) != bytes_get32(head + 16))
        return err_set(e, ERR_PROTOCOL, "the other end sent a frame that is damaged");
    *out = (struct frame){.type = head[12],
                          .id = bytes_get32(head + 8),
                          .payload = head + FRAME_HEAD_BYTES,
                          .len = len,
                          .packing = (enum frame_packing)head[13]};
    r->taken += FRAME_HEAD_BYTES + len;
    return 1;
}

void
frame_reader_done(struct frame_reader *r)
{
    str_free(&r->bytes);
}

struct frame_packer {
    ZSTD_CCtx *pack;
    ZSTD_DCtx *unpack;
};

struct frame_packer *
frame_packer_new(void)
{
    return mem_zalloc(sizeof(struct frame_packer));
}

size_t
frame_pack_bound(size_t len)
{
    size_t lz4 = (size_t)LZ4_compressBound((int)len), zstd = ZSTD_compressBound(len);
    return PACK_HEAD_BYTES + (lz4 > zstd ? lz4 : zstd);
}

/* Not worth it unless it saves a tenth: the limit is told to the libraries, which then give up early. */
size_t
frame_pack(struct frame_packer *p, enum frame_packing packing, void *to, const void *from,
           size_t len)
{
    must(len <= FRAME_PAYLOAD_BYTES);
    unsigned char *body = (unsigned char *)to + PACK_HEAD_BYTES;
    size_t most = len - len / 10, n = 0;
    if (most <= PACK_HEAD_BYTES)
        return 0;
    most -= PACK_HEAD_BYTES;
    if (packing == FRAME_LZ4) {
        int got = LZ4_compress_default(from, (char *)body, (int)len, (int)most);
        n = got > 0 ? (size_t)got : 0;
    } else if (packing == FRAME_ZSTD) {
        if (!p->pack)
            p->pack = ZSTD_createCCtx();
        must(p->pack);
        n = ZSTD_compressCCtx(p->pack, body, most, from, len, ZSTD_LEVEL);
        n = ZSTD_isError(n) ? 0 : n;
    }
    bytes_put32(to, (uint32_t)len);
    return n ? PACK_HEAD_BYTES + n : 0;
}

static size_t
unpack_zstd(struct frame_packer *p, void *to, size_t len, const struct frame *f)
{
    if (!p->unpack)
        p->unpack = ZSTD_createDCtx();
    must(p->unpack);
    size_t n = ZSTD_decompressDCtx(p->unpack, to, len, (const char *)f->payload + PACK_HEAD_BYTES,
                                   f->len - PACK_HEAD_BYTES);
    return ZSTD_isError(n) ? 0 : n;
}

int
frame_unpack(struct frame_packer *p, const struct frame *f, struct frame_room *to, struct err *e)
{
    to->len = 0;
    if (f->packing == FRAME_PLAIN || f->len <= PACK_HEAD_BYTES)
        return err_set(e, ERR_PROTOCOL, "the other end sent a packed frame of nothing");
    size_t len = bytes_get32(f->payload), got = 0;
    if (len == 0 || len > to->room)
        return err_set(e, ERR_PROTOCOL, "the other end sent a packed frame of %zu bytes", len);
    if (f->packing == FRAME_LZ4) {
        int n = LZ4_decompress_safe((const char *)f->payload + PACK_HEAD_BYTES, to->bytes,
                                    (int)(f->len - PACK_HEAD_BYTES), (int)len);
        got = n > 0 ? (size_t)n : 0;
    } else {
        got = unpack_zstd(p, to->bytes, len, f);
    }
    if (got != len)
        return err_set(e, ERR_PROTOCOL, "the other end sent a packed frame that is damaged");
    to->len = len;
    return 0;
}

void
frame_packer_free(struct frame_packer *p)
{
    if (!p)
        return;
    ZSTD_freeCCtx(p->pack);
    ZSTD_freeDCtx(p->unpack);
    free(p);
}
