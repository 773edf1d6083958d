#include "moonrise/base/str.h"
#include "moonrise/pg/datadir.h"
#include "names.h"
#include "run.h"
#include "walk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/*
 * A tablespace that the source has dropped while the target was away: its link in pg_tblspc is not listed
 * and goes, the directory outside that it led to stays with what is in it. Nothing has replaced it, and
 * nobody told us that it is the target's alone (SAFETY.md, rule 10): who mapped it there removes it. Until
 * then the agent sends no new tablespace there.
 */

/* The walk over one target directory beside its entries in the list; both are sorted. */
struct cleaning {
    struct patch_run *run;
    const struct patch_dir *dir;
    int fd;
    char *class_path;
    uint32_t at; /* the next entry of the list */
};

/* Whether the list says that the target's file `name` stays. Called with ascending names. */
static bool
cleaning_listed(struct cleaning *c, const char *name)
{
    struct patch_entry entry;
    while (c->at < c->dir->end) {
        patch_list_entry(c->run->list, c->at, &entry);
        int order = strcmp(entry.name, name);
        if (order > 0)
            return false;
        c->at = entry.next;
        if (order < 0)
            continue;
        if (entry.flags & PATCH_ENTRY_GONE)
            return false;
        struct stat st;
        return !(entry.flags & PATCH_ENTRY_OTHER) ||
               (fstatat(c->fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && !S_ISREG(st.st_mode));
    }
    return false;
}

/* A directory that is one of the target's roots, or where its pg_wal leads: inside of the data directory,
 * but not part of it. */
static bool
cleaning_is_other_root(const struct cleaning *c, const struct stat *st)
{
    const struct patch_target *t = &c->run->target;
    struct stat other;
    for (uint32_t i = 1; i < t->root_count; i++)
        if (t->roots[i] >= 0 && fstat(t->roots[i], &other) == 0 && other.st_dev == st->st_dev &&
            other.st_ino == st->st_ino)
            return true;
    return fstatat(t->roots[0], "pg_wal", &other, 0) == 0 && other.st_dev == st->st_dev &&
           other.st_ino == st->st_ino;
}

/* Whether a name that no entry has stays all the same: a listed directory, or none of ours. */
static bool
cleaning_keeps(const struct cleaning *c, const char *name, const char *class_name)
{
    struct stat st;
    if (fstatat(c->fd, name, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return true;
    if (c->dir->root > 0 && *c->dir->path == '\0')
        return true;
    char *path = patch_join(c->dir->path, name);
    bool listed = patch_list_find_dir(c->run->list, c->dir->root, path) != NULL;
    free(path);
    if (listed || !S_ISDIR(st.st_mode))
        return listed;
    return datadir_classify(class_name, true) == DATADIR_EMPTY_DIR ||
           cleaning_is_other_root(c, &st);
}

static int
cleaning_name(struct cleaning *c, const char *name, struct err *e)
{
    int rc = 0;
    if (c->dir->kind == PATCH_DIR_COPY && cleaning_listed(c, name))
        return 0;
    char *class_name = patch_join(c->class_path, name);
    if (c->dir->kind == PATCH_DIR_EMPTY || !cleaning_keeps(c, name, class_name))
        rc = patch_remove(c->fd, name, class_name, c->run->progress, e);
    free(class_name);
    return rc;
}

/* The server wants archive_status in pg_wal, and pg_basebackup makes it too. */
static int
cleaning_add_status(const struct cleaning *c, struct err *e)
{
    if (c->dir->root != 0 || strcmp(c->dir->path, "pg_wal") != 0)
        return 0;
    if (mkdirat(c->fd, "archive_status", 0700) != 0 && errno != EEXIST)
        return err_sys(e, errno, "cannot make pg_wal/archive_status");
    return 0;
}

static int
delete_in(struct patch_run *run, const struct patch_dir *dir, struct err *e)
{
    struct cleaning c = {.run = run, .dir = dir, .at = dir->first};
    c.fd = patch_target_dir(&run->target, dir);
    if (c.fd < 0)
        return err_sys(e, errno, "cannot open the directory %s", dir->path);
    c.class_path = patch_class_path(run->spec, dir->root, dir->path);
    struct patch_names names = {.count = 0};
    int rc = patch_names_read(&names, c.fd, e);
    for (uint32_t i = 0; rc == 0 && i < names.count; i++) {
        if (patch_run_stopped(run))
            rc = err_set(e, ERR_CANCELLED, "cancelled");
        else
            rc = cleaning_name(&c, patch_names_at(&names, i), e);
    }
    if (rc == 0)
        rc = cleaning_add_status(&c, e);
    patch_names_free(&names);
    free(c.class_path);
    close(c.fd);
    return rc;
}

int
patch_run_delete(struct patch_run *run, struct err *e)
{
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < patch_list_dirs(run->list); i++)
        rc = delete_in(run, patch_list_dir_at(run->list, i), e);
    return rc ? err_wrap(e, "deleting in %s", run->spec->target_dir) : 0;
}
