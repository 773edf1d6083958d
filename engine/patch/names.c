#include "names.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void
names_add(struct patch_names *n, const char *name)
{
    size_t len = strlen(name) + 1;
    if (n->cap - n->len < len) {
        n->cap = n->cap ? n->cap * 2 : 4096;
        n->text = mem_realloc(n->text, n->cap);
    }
    if (n->count == n->at_cap) {
        n->at_cap = n->at_cap ? n->at_cap * 2 : 256;
        n->at = mem_realloc(n->at, n->at_cap * sizeof(*n->at));
    }
    memcpy(n->text + n->len, name, len);
    n->at[n->count++] = (uint32_t)n->len;
    n->len += len;
}

static int
names_compare(const void *a, const void *b, void *text)
{
    const char *base = text;
    return strcmp(base + *(const uint32_t *)a, base + *(const uint32_t *)b);
}

int
patch_names_read(struct patch_names *n, int fd, struct err *e)
{
    n->len = 0;
    n->count = 0;
    int own = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = own < 0 ? NULL : fdopendir(own);
    if (!dir) {
        int sys = errno;
        if (own >= 0)
            close(own);
        return err_sys(e, sys, "cannot read a directory");
    }
    int rc = 0;
    for (;;) {
        errno = 0;
        const struct dirent *d = readdir(dir);
        if (!d)
            break;
        if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
            continue;
        if (n->len > UINT32_MAX - 4096) {
            rc = err_set(e, ERR_LIMIT, "a directory has too many files");
            break;
        }
        names_add(n, d->d_name);
    }
    if (rc == 0 && errno)
        rc = err_sys(e, errno, "cannot read a directory");
    closedir(dir);
    if (n->count > 1)
        qsort_r(n->at, n->count, sizeof(*n->at), names_compare, n->text);
    return rc;
}

const char *
patch_names_at(const struct patch_names *n, uint32_t i)
{
    must(i < n->count);
    return n->text + n->at[i];
}

bool
patch_names_has(const struct patch_names *n, const char *name)
{
    uint32_t low = 0;
    uint32_t high = n->count;
    while (low < high) {
        uint32_t mid = low + (high - low) / 2;
        int order = strcmp(n->text + n->at[mid], name);
        if (order == 0)
            return true;
        if (order < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return false;
}

void
patch_names_free(struct patch_names *n)
{
    free(n->text);
    free(n->at);
    memset(n, 0, sizeof(*n));
}

/* openat2's RESOLVE_BENEATH would do it in one call, but not on kernels before 5.6. */
int
patch_open_below(int root_fd, const char *path, bool follow_first)
{
    int fd = openat(root_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int follow = follow_first ? 0 : O_NOFOLLOW;
    while (fd >= 0 && *path) {
        char name[256];
        size_t len = strcspn(path, "/");
        if (len == 0 || len >= sizeof(name)) {
            close(fd);
            errno = ENAMETOOLONG;
            return -1;
        }
        memcpy(name, path, len);
        name[len] = '\0';
        int next = openat(fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | follow);
        int sys = errno;
        close(fd);
        errno = sys;
        fd = next;
        follow = O_NOFOLLOW;
        path += len + (path[len] == '/');
    }
    return fd;
}

char *
patch_join(const char *dir, const char *name)
{
    return *dir ? mem_printf("%s/%s", dir, name) : mem_strdup(name);
}
