#include "places.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"
#include "moonrise/patch/patch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PLACE_ANCESTORS 256

struct place {
    char *path;
    int fd; /* the directory, or its nearest existing parent */
    dev_t dev;
    ino_t ino;
    bool missing; /* the directory itself does not exist yet */
    bool target;
    bool data; /* the data directory of its side */
};

struct places {
    struct place *list;
    int count;
};

/* Cuts the last component off; false when there is none. */
static bool
place_cut(char *path)
{
    char *slash = strrchr(path, '/');
    if (!slash || path[1] == '\0')
        return false;
    slash[slash == path ? 1 : 0] = '\0';
    return true;
}

static int
place_open(struct place *p, struct err *e)
{
    char *path = mem_strdup(p->path);
    struct stat st;
    int rc = 0;
    while ((p->fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0) {
        if (errno != ENOENT || !place_cut(path)) {
            rc = err_sys(e, errno, "cannot open the directory %s", p->path);
            break;
        }
        p->missing = true;
    }
    if (rc == 0 && fstat(p->fd, &st) != 0)
        rc = err_sys(e, errno, "cannot look at the directory %s", p->path);
    if (rc == 0) {
        p->dev = st.st_dev;
        p->ino = st.st_ino;
    }
    free(path);
    return rc;
}

static int
places_add_take(struct places *all, char *path, bool target, bool data, struct err *e)
{
    struct place *p = &all->list[all->count++];
    *p = (struct place){.path = path, .fd = -1, .target = target, .data = data};
    if (*path != '/')
        return err_set(e, ERR_ARGUMENT, "not an absolute path: \"%s\"", path);
    return place_open(p, e);
}

static int
places_add(struct places *all, const char *path, bool target, bool data, struct err *e)
{
    return places_add_take(all, mem_strdup(path), target, data, e);
}

/* Where a side's pg_wal link leads. A directory of its own is inside the data directory anyway. */
static int
places_add_wal(struct places *all, const char *data_dir, bool target, struct err *e)
{
    char *path = mem_printf("%s/pg_wal", data_dir);
    struct stat st;
    if (lstat(path, &st) == 0 && S_ISLNK(st.st_mode))
        return places_add_take(all, path, target, false, e);
    free(path);
    return 0;
}

static bool
place_same(const struct place *a, const struct place *b)
{
    if (a->missing != b->missing || a->dev != b->dev || a->ino != b->ino)
        return false;
    return !a->missing || strcmp(a->path, b->path) == 0;
}

/* Whether `inner` lies below `outer`, going up by "..", which no link can mislead. */
static int
place_is_inside(const struct place *inner, const struct place *outer, bool *inside, struct err *e)
{
    struct stat st;
    *inside = false;
    if (outer->missing)
        return 0;
    dev_t dev = inner->dev;
    ino_t ino = inner->ino;
    if (inner->missing && dev == outer->dev && ino == outer->ino) {
        *inside = true;
        return 0;
    }
    int fd = openat(inner->fd, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
    for (int i = 0; fd >= 0 && i < PLACE_ANCESTORS; i++) {
        if (fstat(fd, &st) != 0 || (st.st_dev == dev && st.st_ino == ino))
            break; /* the root is its own parent */
        dev = st.st_dev;
        ino = st.st_ino;
        *inside = *inside || (dev == outer->dev && ino == outer->ino);
        int up = openat(fd, "..", O_PATH | O_DIRECTORY | O_CLOEXEC);
        close(fd);
        fd = up;
    }
    if (fd < 0)
        return err_sys(e, errno, "cannot look above the directory %s", inner->path);
    close(fd);
    return 0;
}

static int
places_compare(const struct place *a, const struct place *b, struct err *e)
{
    bool inside = false;
    if (place_same(a, b))
        return err_set(e, ERR_REFUSED, "%s and %s are the same directory", a->path, b->path);
    int rc = place_is_inside(a, b, &inside, e);
    if (rc)
        return rc;
    if (inside && !(b->data && a->target == b->target))
        return err_set(e, ERR_REFUSED, "%s lies inside of %s", a->path, b->path);
    return 0;
}

static int
places_collect(struct places *all, const struct patch_spec *spec, bool source_too, struct err *e)
{
    int rc = places_add(all, spec->target_dir, true, true, e);
    if (rc == 0)
        rc = places_add_wal(all, spec->target_dir, true, e);
    /* A target whose pg_wal already leads there has it in the list. */
    if (rc == 0 && spec->target_wal_dir && all->count == 1)
        rc = places_add(all, spec->target_wal_dir, true, false, e);
    if (rc == 0 && source_too)
        rc = places_add(all, spec->source_dir, false, true, e);
    if (rc == 0 && source_too)
        rc = places_add_wal(all, spec->source_dir, false, e);
    for (int i = 0; rc == 0 && i < spec->tablespace_count; i++) {
        rc = places_add(all, spec->tablespaces[i].target, true, false, e);
        if (rc == 0 && source_too)
            rc = places_add(all, spec->tablespaces[i].source, false, false, e);
    }
    return rc;
}

int
patch_places_check(const struct patch_spec *spec, bool source_too, struct err *e)
{
    struct places all = {.count = 0};
    all.list = mem_zalloc((5 + 2 * (size_t)spec->tablespace_count) * sizeof(*all.list));
    int rc = places_collect(&all, spec, source_too, e);
    for (int i = 0; rc == 0 && i < all.count; i++)
        for (int j = 0; rc == 0 && j < all.count; j++)
            if (i != j)
                rc = places_compare(&all.list[i], &all.list[j], e);
    for (int i = 0; i < all.count; i++) {
        if (all.list[i].fd >= 0)
            close(all.list[i].fd);
        free(all.list[i].path);
    }
    free(all.list);
    return rc;
}
