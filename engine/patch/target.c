#include "target.h"

#include "list.h"
#include "moonrise/base/err.h"
#include "moonrise/base/str.h"
#include "moonrise/patch/patch.h"
#include "names.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int
patch_target_open(struct patch_target *t, const struct patch_spec *spec, struct err *e)
{
    t->spec = spec;
    t->root_count = (uint32_t)spec->tablespace_count + 1;
    t->roots = mem_alloc(t->root_count * sizeof(*t->roots));
    for (uint32_t i = 0; i < t->root_count; i++)
        t->roots[i] = -1;
    t->roots[0] = open(spec->target_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (t->roots[0] < 0)
        return err_sys(e, errno, "cannot open the target directory %s", spec->target_dir);
    return 0;
}

void
patch_target_close(struct patch_target *t)
{
    for (uint32_t i = 0; t->roots && i < t->root_count; i++)
        if (t->roots[i] >= 0)
            close(t->roots[i]);
    free(t->roots);
    t->roots = NULL;
}

char *
patch_target_path(const struct patch_target *t, uint32_t root, const char *dir, const char *name)
{
    const char *base = root == 0 ? t->spec->target_dir : t->spec->tablespaces[root - 1].target;
    return mem_printf("%s%s%s%s%s", base, *dir ? "/" : "", dir, *name ? "/" : "", name);
}

static bool
target_is_wal(const struct patch_dir *d)
{
    return d->root == 0 && strncmp(d->path, "pg_wal", 6) == 0 &&
           (d->path[6] == '\0' || d->path[6] == '/');
}

int
patch_target_dir(const struct patch_target *t, const struct patch_dir *d)
{
    if (t->roots[d->root] < 0) {
        errno = ENOENT;
        return -1;
    }
    return patch_open_below(t->roots[d->root], d->path, target_is_wal(d));
}

/* Makes a directory outside of the data directory, and its parents, each durable in its own parent. */
static int
target_make_outside(const char *path, struct err *e)
{
    struct stat st;
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode))
        return 0;
    char *parent = mem_strdup(path);
    char *slash = strrchr(parent, '/');
    int rc = 0;
    if (!slash || slash == parent)
        *(slash ? slash + 1 : parent) = '\0';
    else
        *slash = '\0';
    if (slash && slash != parent)
        rc = target_make_outside(parent, e);
    if (rc == 0 && mkdir(path, 0700) != 0 && errno != EEXIST)
        rc = err_sys(e, errno, "cannot make the directory %s", path);
    int fd = rc == 0 ? open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (rc == 0 && (fd < 0 || fsync(fd) != 0))
        rc = err_sys(e, errno, "cannot flush the directory %s", parent);
    if (fd >= 0)
        close(fd);
    free(parent);
    return rc;
}

/* Makes `name` a link to `to`, whatever is there; a link that is right stays. */
static int
target_make_link(int fd, const char *name, const char *to, struct err *e)
{
    struct stat st;
    size_t len = strlen(to);
    if (fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
        char *now = mem_alloc(len + 2);
        ssize_t n = readlinkat(fd, name, now, len + 1);
        bool right = n == (ssize_t)len && memcmp(now, to, len) == 0;
        free(now);
        if (right)
            return 0;
        char *path = mem_printf("pg_tblspc/%s", name);
        int rc = patch_remove(fd, name, path, NULL, e);
        free(path);
        if (rc)
            return rc;
    }
    if (symlinkat(to, fd, name) != 0)
        return err_sys(e, errno, "cannot make the link %s to %s", name, to);
    return 0;
}

/* The links of pg_tblspc, and the directories they lead to, opened as roots. */
static int
target_make_tablespaces(struct patch_target *t, const struct patch_list *l,
                        const struct patch_dir *d, struct err *e)
{
    int fd = patch_target_dir(t, d);
    int rc = fd < 0 ? err_sys(e, errno, "cannot open %s/%s", t->spec->target_dir, d->path) : 0;
    for (int i = 0; rc == 0 && i < t->spec->tablespace_count; i++) {
        const struct patch_tablespace *ts = &t->spec->tablespaces[i];
        if (!patch_list_find_dir(l, (uint32_t)i + 1, ""))
            continue;
        rc = target_make_outside(ts->target, e);
        if (rc == 0)
            rc = target_make_link(fd, ts->oid, ts->target, e);
        if (rc == 0) {
            t->roots[i + 1] = open(ts->target, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
            if (t->roots[i + 1] < 0)
                rc = err_sys(e, errno, "cannot open the tablespace directory %s", ts->target);
        }
    }
    if (fd >= 0)
        close(fd);
    return rc;
}

/* What is below would be deleted: the place of a new pg_wal is nobody's yet. */
static int
target_is_empty(const char *path, struct err *e)
{
    struct patch_names names = {.count = 0};
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd < 0 ? err_sys(e, errno, "cannot open the directory %s", path) : 0;
    if (rc == 0)
        rc = patch_names_read(&names, fd, e);
    for (uint32_t i = 0; rc == 0 && i < names.count; i++)
        if (strcmp(patch_names_at(&names, i), "lost+found") != 0)
            rc = err_set(e, ERR_REFUSED, "the WAL directory %s is not empty", path);
    patch_names_free(&names);
    if (fd >= 0)
        close(fd);
    return rc;
}

/* pg_wal: what is there stays, also a link; a link whose directory is gone gets it back. Returns 1 when
 * there is nothing left to do. */
static int
target_make_wal(struct patch_target *t, int parent, struct err *e)
{
    struct stat st;
    if (fstatat(parent, "pg_wal", &st, AT_SYMLINK_NOFOLLOW) == 0) {
        if (!S_ISLNK(st.st_mode))
            return 0;
        char to[4096];
        ssize_t n = readlinkat(parent, "pg_wal", to, sizeof(to) - 1);
        to[n < 0 ? 0 : n] = '\0';
        if (*to != '/')
            return err_set(e, ERR_REFUSED, "the link %s/pg_wal is not absolute: \"%s\"",
                           t->spec->target_dir, to);
        int rc = target_make_outside(to, e);
        return rc ? rc : 1;
    }
    if (!t->spec->target_wal_dir)
        return 0;
    int rc = target_make_outside(t->spec->target_wal_dir, e);
    if (rc == 0)
        rc = target_is_empty(t->spec->target_wal_dir, e);
    if (rc == 0 && symlinkat(t->spec->target_wal_dir, parent, "pg_wal") != 0)
        rc = err_sys(e, errno, "cannot make the link %s/pg_wal", t->spec->target_dir);
    return rc ? rc : 1;
}

static int
target_make_dir(int parent, const char *name, const struct patch_dir *d, struct err *e)
{
    struct stat st;
    mode_t mode = d->mode | 0700;
    if (mkdirat(parent, name, mode) != 0) {
        if (errno != EEXIST)
            return err_sys(e, errno, "cannot make the directory %s", d->path);
        if (fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) != 0)
            return err_sys(e, errno, "cannot look at %s", d->path);
        if (!S_ISDIR(st.st_mode) &&
            (unlinkat(parent, name, 0) != 0 || mkdirat(parent, name, mode) != 0))
            return err_sys(e, errno, "cannot replace %s by a directory", d->path);
    }
    if (fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && (st.st_mode & 0777) == mode)
        return 0;
    if (fchmodat(parent, name, mode, 0) != 0)
        return err_sys(e, errno, "cannot change the mode of %s", d->path);
    return 0;
}

/* Makes one directory inside of its root. */
static int
target_make(struct patch_target *t, const struct patch_dir *d, struct err *e)
{
    struct patch_dir parent = *d;
    const char *slash = strrchr(d->path, '/');
    char *up = mem_strdup(d->path);
    up[slash ? slash - d->path : 0] = '\0';
    parent.path = up;
    int fd = patch_target_dir(t, &parent);
    int rc = fd < 0 ? err_sys(e, errno, "cannot open the directory above %s", d->path) : 0;
    int done = 0;
    if (rc == 0 && d->root == 0 && strcmp(d->path, "pg_wal") == 0)
        done = target_make_wal(t, fd, e);
    if (done < 0)
        rc = done;
    else if (rc == 0 && done == 0)
        rc = target_make_dir(fd, slash ? slash + 1 : d->path, d, e);
    if (fd >= 0)
        close(fd);
    free(up);
    return rc;
}

static int
target_make_root(struct patch_target *t, const struct patch_dir *d, struct err *e)
{
    struct stat st;
    mode_t mode = d->mode | 0700;
    if (t->roots[d->root] < 0)
        return err_set(e, ERR_FORMAT, "the source lists a tablespace without its link");
    if (fstat(t->roots[d->root], &st) == 0 && (st.st_mode & 0777) == mode)
        return 0;
    if (fchmod(t->roots[d->root], mode) != 0)
        return err_sys(e, errno, "cannot change the mode of a target directory");
    return 0;
}

int
patch_target_prepare(struct patch_target *t, const struct patch_list *l, struct err *e)
{
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < patch_list_dirs(l); i++) {
        const struct patch_dir *d = patch_list_dir_at(l, i);
        rc = *d->path ? target_make(t, d, e) : target_make_root(t, d, e);
        if (rc == 0 && d->root == 0 && strcmp(d->path, "pg_tblspc") == 0)
            rc = target_make_tablespaces(t, l, d, e);
    }
    return rc;
}
