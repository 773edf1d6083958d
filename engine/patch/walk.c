#include "walk.h"

#include "list.h"
#include "moonrise/base/err.h"
#include "moonrise/base/str.h"
#include "moonrise/patch/patch.h"
#include "moonrise/pg/datadir.h"
#include "names.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Far more than PostgreSQL makes; keeps the descriptors of a walk bounded. */
#define WALK_DEPTH 32

struct walk {
    struct patch_list *list;
    const struct patch_spec *spec;
    const int *roots;
    uint32_t root;
};

/* One directory on the way. */
struct walk_dir {
    const struct walk *walk;
    int fd;
    int depth;
    const char *path; /* relative to the root */
    char *class_path; /* relative to the data directory */
    bool has_init;    /* some relation in it has an init fork */
    struct patch_names names;
    struct patch_names dirs; /* those of `names` that are directories to descend into */
};

static int walk_directory(const struct walk *w, int fd, const char *path, int depth, struct err *e);

char *
patch_class_path(const struct patch_spec *spec, uint32_t root, const char *path)
{
    if (root == 0)
        return mem_strdup(path);
    const char *oid = spec->tablespaces[root - 1].oid;
    return mem_printf("pg_tblspc/%s%s%s", oid, *path ? "/" : "", path);
}

bool
patch_is_version_dir(const char *name)
{
    if (strncmp(name, "PG_", 3) != 0)
        return false;
    size_t major = strspn(name + 3, "0123456789");
    if (major == 0 || name[3 + major] != '_')
        return false;
    const char *catalog = name + 3 + major + 1;
    size_t digits = strspn(catalog, "0123456789");
    return digits > 0 && catalog[digits] == '\0';
}

/* Whether the file is a fork, not the init fork, of a relation that has one. */
static bool
walk_is_unlogged(const struct walk_dir *d, const char *name, const char *class_name)
{
    struct relfile rel;
    if (!d->has_init || !relfile_parse(&rel, class_name) || rel.fork == 'i' || rel.temporary)
        return false;
    char init[32];
    size_t digits = strspn(name, "0123456789");
    if (digits + sizeof("_init") > sizeof(init))
        return false;
    memcpy(init, name, digits);
    memcpy(init + digits, "_init", sizeof("_init"));
    return patch_names_has(&d->names, init);
}

static bool
walk_has_init(const struct patch_names *n)
{
    for (uint32_t i = 0; i < n->count; i++) {
        const char *name = patch_names_at(n, i);
        size_t digits = strspn(name, "0123456789");
        if (digits && strcmp(name + digits, "_init") == 0)
            return true;
    }
    return false;
}

static int
walk_link(const struct walk_dir *d, const char *name, enum datadir_class class, struct err *e)
{
    if (class == DATADIR_SKIP || class == DATADIR_DROP)
        return 0;
    if (d->walk->root == 0 && strcmp(d->path, "pg_tblspc") == 0) {
        int i = 0;
        while (i < d->walk->spec->tablespace_count &&
               strcmp(d->walk->spec->tablespaces[i].oid, name) != 0)
            i++;
        if (i == d->walk->spec->tablespace_count) {
            err_set(e, ERR_REFUSED, "tablespace %s of the source has no place on the target", name);
            err_hint(e, "it may be new: run the recovery again");
            return ERR_REFUSED;
        }
    }
    struct patch_listed_file other = {.name = name, .flags = PATCH_ENTRY_OTHER};
    return patch_list_file(d->walk->list, &other, e);
}

static int
walk_file(const struct walk_dir *d, const char *name, const char *class_name, const struct stat *st,
          struct err *e)
{
    enum datadir_class class = datadir_classify(class_name, false);
    if (class != DATADIR_COPY && class != DATADIR_RELATION)
        return 0;
    if (class == DATADIR_RELATION && walk_is_unlogged(d, name, class_name))
        return 0;
    struct patch_listed_file file = {name, (uint64_t)st->st_size, st->st_mode, 0};
    return patch_list_file(d->walk->list, &file, e);
}

/* A directory that is listed as another root of the spec, or is where pg_wal leads to. */
static bool
walk_is_other_root(const struct walk *w, const struct stat *st)
{
    struct stat other;
    for (int i = 1; i <= w->spec->tablespace_count; i++)
        if (w->roots[i] >= 0 && fstat(w->roots[i], &other) == 0 && other.st_dev == st->st_dev &&
            other.st_ino == st->st_ino)
            return true;
    return fstatat(w->roots[0], "pg_wal", &other, 0) == 0 && other.st_dev == st->st_dev &&
           other.st_ino == st->st_ino;
}

static void
walk_keep_dir(struct walk_dir *d, uint32_t i)
{
    if (!d->dirs.at)
        d->dirs.at = mem_alloc(d->names.count * sizeof(*d->dirs.at));
    d->dirs.at[d->dirs.count++] = d->names.at[i];
}

static int
walk_cancelled(const struct walk *w, struct err *e)
{
    const atomic_bool *cancel = w->spec->cancel;
    if (!cancel || !atomic_load_explicit(cancel, memory_order_relaxed))
        return 0;
    return err_set(e, ERR_CANCELLED, "the listing of %s was cancelled", w->spec->source_dir);
}

/* Adds one name; directories wait until the files of this one are listed. */
static int
walk_entry(struct walk_dir *d, uint32_t i, struct err *e)
{
    const char *name = patch_names_at(&d->names, i);
    struct stat st;
    if (fstatat(d->fd, name, &st, AT_SYMLINK_NOFOLLOW) != 0) {
        if (errno == ENOENT)
            return 0;
        return err_sys(e, errno, "cannot look at %s", name);
    }
    bool tablespace_top = d->walk->root > 0 && *d->path == '\0';
    if (tablespace_top && !(S_ISDIR(st.st_mode) && patch_is_version_dir(name)))
        return 0;
    char *class_name = patch_join(d->class_path, name);
    int rc = 0;
    if (S_ISREG(st.st_mode)) {
        rc = walk_file(d, name, class_name, &st, e);
    } else {
        enum datadir_class class = datadir_classify(class_name, true);
        bool dir = S_ISDIR(st.st_mode) && (class == DATADIR_COPY || class == DATADIR_RELATION);
        if (class == DATADIR_EMPTY_DIR || (dir && !walk_is_other_root(d->walk, &st)))
            walk_keep_dir(d, i);
        else if (!S_ISDIR(st.st_mode))
            rc = walk_link(d, name, class, e);
    }
    free(class_name);
    return rc;
}

static int
walk_subdir(const struct walk_dir *d, const char *name, struct err *e)
{
    char *path = patch_join(d->path, name);
    char *class_name = patch_join(d->class_path, name);
    int rc = 0;
    if (datadir_classify(class_name, true) == DATADIR_EMPTY_DIR) {
        struct stat st;
        uint32_t mode = fstatat(d->fd, name, &st, 0) == 0 ? st.st_mode : 0700;
        struct patch_listed_dir dir = {d->walk->root, path, mode, PATCH_DIR_EMPTY};
        rc = patch_list_dir(d->walk->list, &dir, e);
    } else {
        int fd = openat(d->fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd >= 0) {
            rc = walk_directory(d->walk, fd, path, d->depth + 1, e);
            close(fd);
        } else if (errno != ENOENT && errno != ENOTDIR && errno != ELOOP) {
            rc = err_sys(e, errno, "cannot open the directory %s", class_name);
        }
    }
    free(class_name);
    free(path);
    return rc;
}

static int
walk_fill(struct walk_dir *d, struct err *e)
{
    struct stat st;
    if (d->depth > WALK_DEPTH)
        return err_set(e, ERR_FORMAT, "the directory %s is too deep", d->class_path);
    if (fstat(d->fd, &st) != 0)
        return err_sys(e, errno, "cannot look at the directory %s", d->class_path);
    struct patch_listed_dir dir = {d->walk->root, d->path, st.st_mode, PATCH_DIR_COPY};
    int rc = patch_list_dir(d->walk->list, &dir, e);
    if (rc == 0)
        rc = patch_names_read(&d->names, d->fd, e);
    d->has_init = walk_has_init(&d->names);
    for (uint32_t i = 0; rc == 0 && i < d->names.count; i++) {
        rc = walk_cancelled(d->walk, e);
        if (rc == 0)
            rc = walk_entry(d, i, e);
    }
    for (uint32_t i = 0; rc == 0 && i < d->dirs.count; i++)
        rc = walk_subdir(d, d->names.text + d->dirs.at[i], e);
    return rc;
}

static int
walk_directory(const struct walk *w, int fd, const char *path, int depth, struct err *e)
{
    struct walk_dir d = {.walk = w, .fd = fd, .depth = depth, .path = path};
    d.class_path = patch_class_path(w->spec, w->root, path);
    int rc = walk_fill(&d, e);
    free(d.class_path);
    free(d.dirs.at);
    patch_names_free(&d.names);
    return rc;
}

int
patch_walk(struct patch_list *l, const struct patch_spec *spec, const int *roots, struct err *e)
{
    struct walk w = {.list = l, .spec = spec, .roots = roots};
    int rc = walk_directory(&w, roots[0], "", 0, e);
    for (int i = 1; rc == 0 && i <= spec->tablespace_count; i++) {
        w.root = (uint32_t)i;
        if (roots[i] >= 0)
            rc = walk_directory(&w, roots[i], "", 0, e);
    }
    return rc;
}
