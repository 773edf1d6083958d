#include "target.h"

#include "aside.h"
#include "inspect.h"
#include "moonrise/base/err.h"
#include "moonrise/base/io.h"
#include "moonrise/base/path.h"
#include "moonrise/base/str.h"
#include "moonrise/loop/loop.h"
#include "moonrise/pg/conf.h"
#include "process.h"
#include "server.h"
#include "source.h"
#include "tree.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* What the target's own files say of the system it belongs to, "" when nothing does. An unfinished
 * recovery says it in moonrise.patch, and whether it was a full one. */
static void
target_sysid(char sysid[24], bool *was_full, const struct target *t)
{
    struct control c;
    struct conf patch = CONF_INIT;
    bool aside;
    char *path = order_path(t->o, "moonrise.patch");
    sysid[0] = '\0';
    *was_full = false;
    if (conf_read(&patch, path, NULL) == 0 && conf_get(&patch, "sysid")) {
        const char *type = conf_get(&patch, "type");
        snprintf(sysid, 24, "%s", conf_get(&patch, "sysid"));
        *was_full = type && strcmp(type, "full") == 0;
    } else if (aside_read(&c, &aside, t->o->datadir, NULL) == 0)
        snprintf(sysid, 24, "%" PRIu64, c.system_identifier);
    conf_done(&patch);
    free(path);
}

static int
check_system(struct target *t, enum datadir_kind kind, struct err *e)
{
    char has[24], source[24];
    bool was_full;
    snprintf(source, sizeof source, "%" PRIu64, t->source->sysid);
    target_sysid(has, &was_full, t);
    bool full = t->type == PATCH_FULL;
    t->own_system = strcmp(has, source) == 0;
    t->resumes = full && was_full && t->own_system;
    if (kind == KIND_EMPTY || t->own_system)
        return 0;
    if (has[0] && !(full && message_bool(t->o->args, "accept_foreign", false))) {
        err_set(e, ERR_REFUSED, "%s belongs to system %s, the source to %s", t->o->datadir, has,
                source);
        return err_hint(e, "a full recovery (-F), confirmed, replaces everything in it");
    }
    if (!has[0] && !full)
        return err_set(e, ERR_REFUSED,
                       "%s does not say which system it belongs to: only a full "
                       "recovery is possible",
                       t->o->datadir);
    return 0;
}

/* A shutdown ends in a checkpoint, which panics unless everything was flushed; so "shut down" in a pg_control
 * that is in its place says that the disk holds what the cache holds. */
static bool
was_shut_down(const struct target *t)
{
    struct control c;
    bool aside;
    return aside_read(&c, &aside, t->o->datadir, NULL) == 0 && !aside &&
           (c.state == CONTROL_SHUTDOWNED || c.state == CONTROL_SHUTDOWNED_IN_RECOVERY);
}

static int
check_places(const struct target *t, struct err *e)
{
    const char *from = t->source->datadir, *to = t->o->datadir;
    bool inside = !t->source->host && (path_inside(from, to) || path_inside(to, from));
    if (inside || source_is_at(t->source, &t->source->home, to))
        return err_set(e, ERR_REFUSED, "source %s and target %s are one, or inside of one another",
                       from, to);
    return 0;
}

int
target_check(struct target *t, struct err *e)
{
    enum datadir_kind kind;
    if (strcmp(message_text(t->o->args, "role", "m"), "p") == 0)
        return err_set(e, ERR_REFUSED, "%s is its content's primary", t->o->datadir);
    int rc = check_places(t, e);
    if (rc == 0)
        rc = datadir_kind(&kind, t->o->datadir, e);
    if (rc == 0 && kind == KIND_FOREIGN)
        rc = err_set(e, ERR_REFUSED, "%s is not empty and no data directory", t->o->datadir);
    if (rc == 0)
        rc = check_system(t, kind, e);
    if (rc == 0 && kind == KIND_HALF_MADE)
        rc = order_compare_note(t->o, e); /* a late one finds no epoch file in it */
    return rc < 0 ? rc : process_prove_stopped(t->o->datadir, e);
}

static int
write_note(const struct target *t, const char *stage, struct err *e)
{
    struct conf c = CONF_INIT;
    char *path = order_path(t->o, "moonrise.patch");
    char number[5][24];
    snprintf(number[0], 24, "%" PRId64, wall_ms() / 1000);
    snprintf(number[1], 24, "%" PRIu64, t->o->claim.epoch);
    snprintf(number[2], 24, "%" PRIu32, t->o->claim.step);
    snprintf(number[3], 24, "%" PRIu64, t->source->sysid);
    snprintf(number[4], 24, "%d", t->o->dbid);
    const char *const items[][2] = {
        {"type", t->type == PATCH_FULL ? "full" : "differential"},
        {"stage", stage},
        {"source", t->source->datadir},
        {"started_s", number[0]},
        {"epoch", number[1]},
        {"step", number[2]},
        {"sysid", number[3]},
        {"dbid", number[4]},
        {"order", "recover"},
    };
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < sizeof items / sizeof *items; i++)
        rc = conf_set(&c, items[i][0], items[i][1], e);
    if (rc == 0)
        rc = conf_write(&c, path, "# An unfinished recovery; run it again.\n", 0600, e);
    conf_done(&c);
    free(path);
    return rc;
}

/* A postmaster.pid with our own process id negated: others' pg_ctl and postgres refuse while we live. */
static int
lock_pidfile(struct target *t, struct err *e)
{
    char text[32];
    int rc = server_remove_pidfile(t->o->datadir, e);
    if (rc < 0)
        return rc;
    char *path = order_path(t->o, "postmaster.pid");
    int len = snprintf(text, sizeof text, "-%d\n", (int)getpid());
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) {
        rc = errno == EEXIST
                 ? err_set(e, ERR_RUNNING, "somebody starts a server in %s", t->o->datadir)
                 : err_sys(e, errno, "%s", path);
    } else {
        t->locked = true;
        rc = io_pwrite_full(fd, text, (size_t)len, 0, e);
        close(fd);
    }
    free(path);
    return rc;
}

/* Whether nothing forbids that somebody starts the target as it is. A marked one is sealed once it is
 * stopped, whoever comes to it first; an epoch file that is damaged may hold the mark, too. */
static bool
may_start(const struct epoch *last)
{
    return !last->present || (last->valid && !last->marked);
}

/* Gives back what was taken: pg_control, if it was in its place and may be there, and with it the note. */
static void
give_back(const struct target *t, bool was_in_place, bool was_half_made)
{
    char *path = order_path(t->o, "moonrise.patch");
    bool back = was_in_place && may_start(&t->o->last);
    if ((!back || aside_restore(t->o->datadir, NULL) == 0) && !was_half_made)
        io_unlink_durable(path, NULL);
    free(path);
}

int
target_take(struct target *t, struct err *e)
{
    bool in_place = file_exists(t->o->datadir, "global/pg_control");
    bool half_made = file_exists(t->o->datadir, "moonrise.patch");
    char *init = order_path(t->o, "moonrise.init");
    /* The source's checkpoint may have taken minutes, in which somebody has started a server here. */
    int rc = process_prove_stopped(t->o->datadir, e);
    t->flushed = rc == 0 && !half_made && was_shut_down(t);
    if (rc == 0)
        rc = write_note(t, "copying", e);
    if (rc == 0)
        rc = aside_move(t->o->datadir, e);
    if (rc == 0)
        rc = lock_pidfile(t, e);
    if (rc < 0)
        give_back(t, in_place, half_made);
    else
        rc = tree_remove(init, e); /* of an initdb that was never finished */
    free(init);
    return rc;
}

void
target_tell(const struct target *t, const char *stage, struct patch_progress *p)
{
    struct str text = STR_INIT;
    str_printf(&text, "stage = '%s'\nbytes_done = %" PRIu64 "\nbytes_total = %" PRIu64 "\n", stage,
               atomic_load(&p->bytes_done), atomic_load(&p->bytes_total));
    char *path = order_path(t->o, "moonrise.progress");
    int fd = file_exists(t->o->datadir, "moonrise.patch")
                 ? open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)
                 : -1;
    if (fd >= 0) {
        io_pwrite_full(fd, text.data, text.len, 0, NULL);
        close(fd);
    }
    free(path);
    str_free(&text);
}

int
target_adopt(struct target *t, struct err *e)
{
    struct order *o = t->o;
    o->last = (struct epoch){.dbid = o->dbid, .content = o->content};
    snprintf(o->last.sysid, sizeof o->last.sysid, "%" PRIu64, t->source->sysid);
    /* The note goes last: until then it is half-made, and run again. */
    int rc = aside_drop(o->datadir, e);
    if (rc == 0)
        rc = order_write_epoch(o, e);
    char *path = order_path(o, "moonrise.patch"), *told = order_path(o, "moonrise.progress");
    if (rc == 0)
        rc = io_unlink_durable(path, e);
    unlink(told);
    free(told);
    free(path);
    return rc == ERR_NOTFOUND ? 0 : rc;
}

void
target_done(struct target *t)
{
    if (t->locked) {
        char *path = order_path(t->o, "postmaster.pid");
        unlink(path);
        free(path);
    }
    t->locked = false;
    for (int i = 0; i < t->space_count; i++) {
        free((char *)t->spaces[i].oid);
        free((char *)t->spaces[i].source);
        free((char *)t->spaces[i].target);
    }
    free(t->spaces);
    t->spaces = NULL;
    t->space_count = 0;
}
