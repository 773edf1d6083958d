/*
 * Which tablespace of the source goes where on the target.
 *
 * A link of pg_tblspc leads to the same place for source and target when both servers see the same
 * directories, and then it must be sent elsewhere. A source that runs in a mount namespace of its own (a
 * container) may have the very same paths: its directories are reached through its postmaster.
 */
#include "moonrise/base/err.h"
#include "moonrise/base/io.h"
#include "moonrise/base/path.h"
#include "moonrise/base/str.h"
#include "source.h"
#include "target.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LINK_BYTES 4096

/* The target of a link in pg_tblspc of a data directory, or NULL. */
static char *
read_link(const char *datadir, const char *oid)
{
    char *path = mem_printf("%s/pg_tblspc/%s", datadir, oid), to[LINK_BYTES];
    ssize_t n = readlink(path, to, sizeof to - 1);
    free(path);
    if (n <= 0)
        return NULL;
    to[n] = '\0';
    return mem_strdup(to);
}

/* Where args.tablespaces sends a tablespace, NULL when it says nothing. */
static const char *
mapped(const struct target *t, const char *oid)
{
    for (size_t i = 0; i < message_count(t->o->args, "tablespaces"); i++) {
        const struct message *item = message_item(t->o->args, "tablespaces", i);
        if (item && strcmp(message_text(item, "oid", ""), oid) == 0)
            return message_text(item, "target", NULL);
    }
    return NULL;
}

/* Whether two paths lead to one directory. */
static bool
same_directory(const char *a, const char *b)
{
    struct stat one, two;
    return stat(a, &one) == 0 && stat(b, &two) == 0 && one.st_dev == two.st_dev &&
           one.st_ino == two.st_ino;
}

/* What follows the data directory's name in a path below it, NULL of any other path and of itself. */
static const char *
below_home(const char *home, const char *path)
{
    size_t len = strlen(home);
    bool below = strncmp(home, path, len) == 0 && path[len] == '/' && path[len + 1];
    return below ? path + len + 1 : NULL;
}

/* The place that a tablespace has on the target, by order of preference: where it is sent; below the data
 * directory as on the source; where an earlier recovery sent it; the same path in another namespace.
 * NULL when there is none. */
static char *
choose_place(const struct target *t, const struct source_space *space)
{
    const char *oid = space->oid, *real = space->place.path;
    const char *to = mapped(t, oid), *below = below_home(t->source->datadir, real);
    if (to)
        return mem_strdup(to);
    if (below)
        return path_join(t->o->datadir, below);
    char *own = t->own_system ? read_link(t->o->datadir, oid) : NULL;
    if (own && !source_is_at(t->source, &space->place, own))
        return own;
    free(own);
    return t->source->host || path_inside("/proc", real) ? mem_strdup(space->path) : NULL;
}

static int
refuse_shared(const char *oid, const char *real, struct err *e)
{
    err_set(e, ERR_REFUSED, "tablespace %s is in %s, which the mirror on this host would share",
            oid, real);
    return err_hint(e, "map it to another directory: recoverseg --tablespace-mapping %s=NEWDIR",
                    real);
}

/* What the source uses is on the same machine, or under the same names elsewhere. */
static bool
may_go_to(const struct target *t, const struct source_place *place, const char *to)
{
    const char *home = t->source->datadir;
    if (to[0] != '/' || strpbrk(to, "\n\\") || source_is_at(t->source, place, to))
        return false;
    return t->source->host || (!path_inside(place->path, to) &&
                               !(path_inside(home, to) && !path_inside(t->o->datadir, to)));
}

/* Whether one of the target's own links leads there: an earlier recovery has sent it, and goes on. */
static bool
is_own_place(const struct target *t, const char *to)
{
    char *dir_name = path_join(t->o->datadir, "pg_tblspc");
    DIR *dir = opendir(dir_name);
    struct dirent *entry;
    bool own = path_inside(t->o->datadir, to);
    while (dir && !own && (entry = readdir(dir)) != NULL) {
        char *link = read_link(t->o->datadir, entry->d_name);
        own = link && (strcmp(link, to) == 0 || same_directory(link, to));
        free(link);
    }
    if (dir)
        closedir(dir);
    free(dir_name);
    return own;
}

/* A place that is new to the target is nobody else's: what its PG_* folders hold would be deleted. */
static int
check_unused(const struct target *t, const char *oid, const char *to, struct err *e)
{
    if (is_own_place(t, to))
        return 0;
    DIR *dir = opendir(to);
    if (!dir)
        return errno == ENOENT ? 0 : err_sys(e, errno, "%s", to);
    struct dirent *entry;
    bool used = false;
    while (!used && (entry = readdir(dir)) != NULL)
        used = strncmp(entry->d_name, "PG_", 3) == 0;
    closedir(dir);
    if (!used)
        return 0;
    err_set(e, ERR_REFUSED, "tablespace %s cannot go to '%s': there is a tablespace already", oid,
            to);
    err_hint(e, "name another directory, or empty it when no instance uses it");
    return ERR_REFUSED;
}

/* Adds one of the source's links. */
static int
add_space(struct target *t, const struct source_space *space, struct err *e)
{
    char *to = choose_place(t, space);
    int rc = 0;
    if (!to)
        rc = refuse_shared(space->oid, space->place.path, e);
    else if (!may_go_to(t, &space->place, to))
        rc = err_set(e, ERR_REFUSED, "tablespace %s cannot go to '%s': the source uses it",
                     space->oid, to);
    else
        rc = check_unused(t, space->oid, to, e);
    if (rc == 0)
        rc = io_make_dirs(to, 0700, e);
    if (rc < 0) {
        free(to);
        return rc;
    }
    t->spaces = mem_realloc(t->spaces, (size_t)(t->space_count + 1) * sizeof *t->spaces);
    t->spaces[t->space_count++] = (struct patch_tablespace){
        .oid = mem_strdup(space->oid), .source = mem_strdup(space->place.path), .target = to};
    return 0;
}

int
target_spaces(struct target *t, struct err *e)
{
    int rc = source_spaces(t->source, e);
    for (size_t i = 0; rc == 0 && i < t->source->space_count; i++)
        rc = add_space(t, &t->source->spaces[i], e);
    return rc;
}
