#include "moonrise/wire/frame.h"

#include "moonrise/base/bytes.h"
#include "moonrise/base/crc32c.h"
#include "moonrise/base/err.h"

#include <string.h>

static const unsigned char frame_magic[4] = {0x89, 'M', 'R', 1};

void
frame_append(struct str *out, const struct frame *f)
{
    unsigned char head[FRAME_HEAD_BYTES] = {0};
    must(f->len <= FRAME_PAYLOAD_BYTES);
    memcpy(head, frame_magic, sizeof(frame_magic));
    bytes_put32(head + 4, (uint32_t)f->len);
    bytes_put32(head + 8, f->id);
    head[12] = (unsigned char)f->type;
    bytes_put32(head + 16, crc32c(crc32c(0, head, 16), f->payload, f->len));
    str_append(out, head, sizeof(head));
    str_append(out, f->payload, f->len);
}

void
frame_reader_feed(struct frame_reader *r, const void *bytes, size_t len)
{
    if (r->taken > 0) {
        memmove(r->bytes.data, r->bytes.data + r->taken, r->bytes.len - r->taken);
        r->bytes.len -= r->taken;
        r->taken = 0;
    }
    str_append(&r->bytes, bytes, len);
}

/* Passes over what comes before the first frame: true when its magic is next. */
static bool
frame_skip(struct frame_reader *r)
{
    while (r->bytes.len - r->taken >= sizeof(frame_magic)) {
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
    if (head[12] < FRAME_HELLO || head[12] > FRAME_PONG || bytes_get16(head + 14) || head[13])
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
                          .len = len};
    r->taken += FRAME_HEAD_BYTES + len;
    return 1;
}

void
frame_reader_done(struct frame_reader *r)
{
    str_free(&r->bytes);
}
