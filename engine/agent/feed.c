#include "feed.h"

#include "moonrise/base/bytes.h"
#include "moonrise/base/err.h"

#include <string.h>

#define ASK_HEAD_BYTES  20
#define DIR_HEAD_BYTES  10
#define FILE_HEAD_BYTES 14

static int
feed_damaged(const char *what, struct err *e)
{
    return err_set(e, ERR_PROTOCOL, "the other end sent %s that makes no sense", what);
}

static void
put_text(struct str *out, const char *text)
{
    str_append(out, text, strlen(text) + 1);
}

/* A text that ends within the bytes; what follows it is *rest. */
static const char *
text_at(const char *from, const char *end, const char **rest)
{
    const char *nul = from < end ? memchr(from, '\0', (size_t)(end - from)) : NULL;
    *rest = nul ? nul + 1 : end;
    return nul ? from : NULL;
}

void
feed_put_ask(struct str *out, const struct feed_ask *ask)
{
    uint8_t head[ASK_HEAD_BYTES];
    bytes_put32(head, ask->root);
    bytes_put64(head + 4, ask->offset);
    bytes_put32(head + 12, ask->bytes);
    bytes_put32(head + 16, ask->have_bytes);
    str_append(out, head, sizeof(head));
    put_text(out, ask->dir);
    put_text(out, ask->name);
    str_append(out, ask->hashes, (size_t)patch_units(ask->have_bytes) * PATCH_HASH_BYTES);
}

int
feed_get_ask(struct feed_ask *ask, const void *payload, size_t len, struct err *e)
{
    const uint8_t *p = payload;
    const char *end = (const char *)payload + len, *rest;
    if (len < ASK_HEAD_BYTES)
        return feed_damaged("a question", e);
    *ask = (struct feed_ask){.root = bytes_get32(p),
                             .offset = bytes_get64(p + 4),
                             .bytes = bytes_get32(p + 12),
                             .have_bytes = bytes_get32(p + 16)};
    ask->dir = text_at((const char *)p + ASK_HEAD_BYTES, end, &rest);
    ask->name = text_at(rest, end, &rest);
    ask->hashes = (const uint8_t *)rest;
    if (ask->bytes == 0 || ask->bytes > PATCH_RANGE_BYTES || ask->have_bytes > ask->bytes ||
        ask->offset % PATCH_RANGE_BYTES || ask->offset > FEED_FILE_BYTES || !ask->dir ||
        !ask->name || !patch_path_ok(ask->dir, ask->name) ||
        (size_t)(end - rest) != (size_t)patch_units(ask->have_bytes) * PATCH_HASH_BYTES)
        return feed_damaged("a question", e);
    return 0;
}

static uint32_t
unit_bytes(uint32_t unit, uint32_t bytes)
{
    uint32_t left = bytes - unit * PATCH_UNIT_BYTES;
    return left < PATCH_UNIT_BYTES ? left : PATCH_UNIT_BYTES;
}

size_t
feed_put_blocks(uint8_t **at, struct patch_answer *answer)
{
    uint32_t units = answer->gone ? 0 : patch_units(answer->bytes), len = 0;
    uint8_t map[FEED_MAP_BYTES] = {0}, *head = answer->data - FEED_MAP_BYTES - FEED_HEAD_BYTES;
    for (uint32_t i = 0; i < units; i++) {
        uint32_t n = unit_bytes(i, answer->bytes);
        if (!answer->differs[i])
            continue;
        map[i / 8] |= (uint8_t)(1u << i % 8);
        if (len != i * PATCH_UNIT_BYTES)
            memmove(answer->data + len, answer->data + i * PATCH_UNIT_BYTES, n);
        len += n;
    }
    *at = head;
    memset(head, 0, FEED_HEAD_BYTES);
    head[0] = answer->gone ? FEED_GONE : len ? FEED_BLOCKS : FEED_SAME;
    bytes_put32(head + 4, answer->gone ? 0 : answer->bytes);
    if (len == 0)
        return FEED_HEAD_BYTES;
    memcpy(head + FEED_HEAD_BYTES, map, sizeof(map));
    return FEED_HEAD_BYTES + FEED_MAP_BYTES + len;
}

static bool
map_has(const uint8_t *map, uint32_t unit)
{
    return map && map[unit / 8] >> unit % 8 & 1;
}

/* The bytes of the units in a map (NULL: none), or -1 when it does not answer the question: it has units that the
 * source has not, or lacks one that the target does not have whole. */
static int64_t
map_bytes(const uint8_t *map, const struct feed_ask *ask, uint32_t bytes)
{
    int64_t sum = 0;
    for (uint32_t i = 0; i < PATCH_RANGE_UNITS; i++) {
        bool exists = i < patch_units(bytes);
        uint32_t len = exists ? unit_bytes(i, bytes) : 0;
        if (map_has(map, i))
            sum += exists ? len : INT32_MAX;
        else if (exists && i * PATCH_UNIT_BYTES + len > ask->have_bytes)
            return -1;
    }
    return sum;
}

int
feed_get_blocks(struct patch_answer *answer, const struct feed_ask *ask,
                const struct frame_room *payload, struct err *e)
{
    const uint8_t *p = payload->bytes, *map = NULL;
    size_t head = FEED_HEAD_BYTES;
    if (payload->len < head || p[0] >= FEED_KINDS || p[1] || p[2] || p[3])
        return feed_damaged("an answer", e);
    answer->gone = p[0] == FEED_GONE;
    answer->bytes = bytes_get32(p + 4);
    memset(answer->differs, 0, sizeof(answer->differs));
    if (p[0] == FEED_BLOCKS) {
        map = p + head;
        head += FEED_MAP_BYTES;
    }
    if (payload->len < head || answer->bytes > ask->bytes)
        return feed_damaged("an answer", e);
    if (answer->gone)
        return payload->len == head && answer->bytes == 0 ? 0 : feed_damaged("an answer", e);
    if (map_bytes(map, ask, answer->bytes) != (int64_t)(payload->len - head))
        return feed_damaged("an answer", e);
    const uint8_t *from = p + head;
    for (uint32_t i = 0; map && i < patch_units(answer->bytes); i++) {
        uint32_t n = unit_bytes(i, answer->bytes);
        answer->differs[i] = map_has(map, i);
        if (!answer->differs[i])
            continue;
        memcpy(answer->data + i * PATCH_UNIT_BYTES, from, n);
        from += n;
    }
    return 0;
}

void
feed_put_dir(struct str *out, const struct patch_listed_dir *dir)
{
    uint8_t head[DIR_HEAD_BYTES] = {'D'};
    bytes_put32(head + 1, dir->root);
    bytes_put32(head + 5, dir->mode);
    head[9] = (uint8_t)dir->kind;
    str_append(out, head, sizeof(head));
    put_text(out, dir->path);
}

void
feed_put_file(struct str *out, const struct patch_listed_file *file)
{
    uint8_t head[FILE_HEAD_BYTES] = {'F'};
    bytes_put64(head + 1, file->size);
    bytes_put32(head + 9, file->mode);
    head[13] = (uint8_t)file->flags;
    str_append(out, head, sizeof(head));
    put_text(out, file->name);
}

static int
get_dir(struct patch_list *l, const uint8_t *p, const char *path, struct err *e)
{
    struct patch_listed_dir dir = {.root = bytes_get32(p + 1),
                                   .path = path,
                                   .mode = bytes_get32(p + 5),
                                   .kind = (enum patch_dir_kind)p[9]};
    if (!path || p[9] > PATCH_DIR_EMPTY || dir.root > INT32_MAX)
        return feed_damaged("a list", e);
    return patch_list_dir(l, &dir, e);
}

static int
get_file(struct patch_list *l, const uint8_t *p, const char *name, struct err *e)
{
    struct patch_listed_file file = {
        .name = name, .size = bytes_get64(p + 1), .mode = bytes_get32(p + 9), .flags = p[13]};
    if (!name || (file.flags & ~(uint32_t)PATCH_ENTRY_OTHER) || file.size > FEED_FILE_BYTES)
        return feed_damaged("a list", e);
    return patch_list_file(l, &file, e);
}

int
feed_get_list(struct patch_list *l, const void *payload, size_t len, struct err *e)
{
    const char *at = payload, *end = at + len, *rest;
    int rc = 0;
    while (rc == 0 && at < end) {
        bool dir = *at == 'D';
        size_t head = dir ? DIR_HEAD_BYTES : FILE_HEAD_BYTES;
        if ((!dir && *at != 'F') || (size_t)(end - at) < head)
            return feed_damaged("a list", e);
        const char *text = text_at(at + head, end, &rest);
        rc = dir ? get_dir(l, (const uint8_t *)at, text, e)
                 : get_file(l, (const uint8_t *)at, text, e);
        at = rest;
    }
    return rc;
}

static const char hex_digits[] = "0123456789abcdef";

void
feed_put_hex(struct str *out, const void *bytes, size_t len)
{
    const uint8_t *p = bytes;
    for (size_t i = 0; i < len; i++) {
        char two[2] = {hex_digits[p[i] >> 4], hex_digits[p[i] & 15]};
        str_append(out, two, sizeof(two));
    }
}

bool
feed_get_hex(struct str *out, const char *text)
{
    for (; *text; text += 2) {
        const char *high = strchr(hex_digits, text[0]);
        const char *low = text[1] ? strchr(hex_digits, text[1]) : NULL;
        if (!high || !low)
            return false;
        char byte = (char)((high - hex_digits) << 4 | (low - hex_digits));
        str_append(out, &byte, 1);
    }
    return true;
}
