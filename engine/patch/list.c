#include "list.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"

#include <stdlib.h>
#include <string.h>

#define LIST_NAME_BYTES 255
#define LIST_PATH_BYTES 2048

struct patch_list {
    uint8_t *bytes;
    size_t len;
    size_t cap;
    struct patch_dir *dirs;
    uint32_t dir_count;
    uint32_t dir_cap;
    uint32_t
        last; /* the entry added last to the current directory, UINT32_MAX when there is none */
    uint64_t total_bytes;
    uint64_t total_files;
};

struct patch_list *
patch_list_new(void)
{
    struct patch_list *l = mem_zalloc(sizeof(*l));
    l->last = UINT32_MAX;
    return l;
}

static bool
list_name_ok(const char *name, size_t len)
{
    if (len == 0 || len > LIST_NAME_BYTES || memchr(name, '/', len))
        return false;
    return !(name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.')));
}

static bool
list_path_ok(const char *path)
{
    if (*path == '\0')
        return true;
    if (strlen(path) > LIST_PATH_BYTES)
        return false;
    for (;;) {
        size_t len = strcspn(path, "/");
        if (!list_name_ok(path, len))
            return false;
        if (path[len] == '\0')
            return true;
        path += len + 1;
    }
}

bool
patch_path_ok(const char *dir, const char *name)
{
    return list_path_ok(dir) && list_name_ok(name, strlen(name));
}

int
patch_list_dir(struct patch_list *l, const struct patch_listed_dir *dir, struct err *e)
{
    if (!list_path_ok(dir->path))
        return err_set(e, ERR_FORMAT, "a directory of the source has an impossible name");
    if (l->dir_count == l->dir_cap) {
        l->dir_cap = l->dir_cap ? l->dir_cap * 2 : 64;
        l->dirs = mem_realloc(l->dirs, l->dir_cap * sizeof(*l->dirs));
    }
    l->dirs[l->dir_count++] = (struct patch_dir){
        .path = mem_strdup(dir->path),
        .root = dir->root,
        .mode = dir->mode & 0777,
        .kind = dir->kind,
        .first = (uint32_t)l->len,
        .end = (uint32_t)l->len,
    };
    l->last = UINT32_MAX;
    return 0;
}

static void
list_put_number(struct patch_list *l, uint64_t n)
{
    while (n >= 0x80) {
        l->bytes[l->len++] = (uint8_t)(n | 0x80);
        n >>= 7;
    }
    l->bytes[l->len++] = (uint8_t)n;
}

/* Big lists grow by mremap, so a half-used capacity costs addresses, not memory. */
static void
list_reserve(struct patch_list *l, size_t more)
{
    if (l->cap - l->len >= more)
        return;
    l->cap = l->cap ? l->cap * 2 : 64 << 10;
    l->bytes = mem_realloc(l->bytes, l->cap);
}

int
patch_list_file(struct patch_list *l, const struct patch_listed_file *file, struct err *e)
{
    const char *name = file->name;
    size_t len = strlen(name);
    if (!list_name_ok(name, len) || l->dir_count == 0 ||
        l->dirs[l->dir_count - 1].kind != PATCH_DIR_COPY)
        return err_set(e, ERR_FORMAT, "a file of the source has an impossible name");
    if (l->last != UINT32_MAX) {
        struct patch_entry before;
        patch_list_entry(l, l->last, &before);
        if (strcmp(before.name, name) >= 0)
            return err_set(e, ERR_FORMAT, "the source's files are not in order: %s", name);
    }
    if (l->len > UINT32_MAX - 2 * LIST_NAME_BYTES)
        return err_set(e, ERR_LIMIT, "the source has too many files");
    list_reserve(l, len + 32);
    l->last = (uint32_t)l->len;
    l->bytes[l->len++] = (uint8_t)file->flags;
    list_put_number(l, file->size);
    list_put_number(l, file->mode & 0777);
    memcpy(l->bytes + l->len, name, len + 1);
    l->len += len + 1;
    l->dirs[l->dir_count - 1].end = (uint32_t)l->len;
    if (!(file->flags & PATCH_ENTRY_OTHER)) {
        l->total_bytes += file->size;
        l->total_files++;
    }
    return 0;
}

static int
list_dir_order(uint32_t root_a, const char *a, uint32_t root_b, const char *b)
{
    if (root_a != root_b)
        return root_a < root_b ? -1 : 1;
    return strcmp(a, b);
}

static int
list_compare_dirs(const void *a, const void *b)
{
    const struct patch_dir *x = a;
    const struct patch_dir *y = b;
    return list_dir_order(x->root, x->path, y->root, y->path);
}

static bool
list_has_parent(const struct patch_list *l, const struct patch_dir *d)
{
    if (*d->path == '\0')
        return true;
    char *parent = mem_strdup(d->path);
    char *slash = strrchr(parent, '/');
    *(slash ? slash : parent) = '\0';
    const struct patch_dir *found = patch_list_find_dir(l, d->root, parent);
    free(parent);
    return found != NULL;
}

int
patch_list_sort(struct patch_list *l, struct err *e)
{
    if (l->dir_count)
        qsort(l->dirs, l->dir_count, sizeof(*l->dirs), list_compare_dirs);
    for (uint32_t i = 0; i < l->dir_count; i++) {
        if (i > 0 && list_compare_dirs(&l->dirs[i - 1], &l->dirs[i]) == 0)
            return err_set(e, ERR_FORMAT, "the source lists the directory \"%s\" twice",
                           l->dirs[i].path);
        if (!list_has_parent(l, &l->dirs[i]))
            return err_set(e, ERR_FORMAT, "the source lists \"%s\" without its parent",
                           l->dirs[i].path);
    }
    return 0;
}

uint32_t
patch_list_dirs(const struct patch_list *l)
{
    return l->dir_count;
}

const struct patch_dir *
patch_list_dir_at(const struct patch_list *l, uint32_t i)
{
    must(i < l->dir_count);
    return &l->dirs[i];
}

const struct patch_dir *
patch_list_find_dir(const struct patch_list *l, uint32_t root, const char *path)
{
    uint32_t low = 0;
    uint32_t high = l->dir_count;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        const struct patch_dir *d = &l->dirs[mid];
        int order = list_dir_order(d->root, d->path, root, path);
        if (order == 0)
            return d;
        if (order < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return NULL;
}

static uint64_t
list_get_number(const struct patch_list *l, size_t *at)
{
    uint64_t n = 0;
    for (int shift = 0;; shift += 7) {
        uint8_t byte = l->bytes[(*at)++];
        n |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80))
            return n;
    }
}

void
patch_list_entry(const struct patch_list *l, uint32_t at, struct patch_entry *out)
{
    must(at < l->len);
    size_t pos = at;
    out->flags = l->bytes[pos++];
    out->size = list_get_number(l, &pos);
    out->mode = (uint32_t)list_get_number(l, &pos);
    out->name = (const char *)l->bytes + pos;
    out->next = (uint32_t)(pos + strlen(out->name) + 1);
}

void
patch_list_mark(struct patch_list *l, uint32_t at, enum patch_entry_flag flag)
{
    must(at < l->len);
    l->bytes[at] |= (uint8_t)flag;
}

uint64_t
patch_list_bytes(const struct patch_list *l)
{
    return l->total_bytes;
}

uint64_t
patch_list_files(const struct patch_list *l)
{
    return l->total_files;
}

int
patch_list_visit(const struct patch_list *l, const struct patch_list_visitor *v, struct err *e)
{
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < l->dir_count; i++) {
        const struct patch_dir *d = &l->dirs[i];
        struct patch_listed_dir dir = {d->root, d->path, d->mode, d->kind};
        struct patch_entry entry;
        rc = v->dir(v->arg, &dir, e);
        for (uint32_t at = d->first; rc == 0 && at < d->end; at = entry.next) {
            patch_list_entry(l, at, &entry);
            struct patch_listed_file file = {entry.name, entry.size, entry.mode, entry.flags};
            rc = v->file(v->arg, &file, e);
        }
    }
    return rc;
}

void
patch_list_free(struct patch_list *l)
{
    if (!l)
        return;
    for (uint32_t i = 0; i < l->dir_count; i++)
        free((char *)l->dirs[i].path);
    free(l->dirs);
    free(l->bytes);
    free(l);
}
