/*
 * The host's record of the coordinator's pair (SAFETY.md, rule 8): whether its standby has every commit, and
 * the highest epoch of the catalog that this host was told. It lies in the state directory of the user,
 * where no instance's fate touches it, as
 *     NAME/coordinator.SYSID.HOST        name = 'value' lines, the last of which is the CRC-32C of the others
 *     NAME/coordinator.SYSID.HOST.lock   only for flock
 * under the cluster's name, the coordinator's system identifier and the host's own name: one machine may
 * bear several. A record that cannot be read is an error and never taken for none: who decides by it must
 * not mistake a damaged "out" for nothing at all.
 */
#include "holder.h"
#include "moonrise/base/err.h"
#include "moonrise/base/io.h"
#include "moonrise/base/path.h"
#include "moonrise/base/str.h"
#include "moonrise/base/user.h"
#include "moonrise/loop/loop.h"
#include "moonrise/pg/conf.h"
#include "order.h"
#include "sealed.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RECORD_BYTES     1024
#define LOCK_WAIT_MS     5000
#define LOCK_PATIENCE_MS 1500 /* with a holder that somebody has stopped */
#define LOCK_POLL_MS     5
#define NUMBER_DIGITS    18
#define NUMBER_MAX       INT64_C(999999999999999999)

struct record {
    bool present;
    int64_t epoch; /* by which `in_sync` was recorded, or is about to be recorded not to hold */
    int64_t coordinator, standby; /* dbids; no standby is 0 */
    bool in_sync;
    int64_t catalog_epoch;
    bool activates; /* of an order: the coordinator may be another one */
};

/* Whose record: what its file's name and its lines say. */
struct owner {
    const char *name, *sysid, *host;
    char *path;
};

/* A word that becomes part of a path. */
static bool
is_word(const char *text, size_t limit)
{
    size_t len = strlen(text);
    return len > 0 && len <= limit && text[0] != '.' &&
           strspn(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:-") ==
               len;
}

static bool
is_number(const char *text, size_t digits)
{
    size_t len = strlen(text);
    return len > 0 && len <= digits && strspn(text, "0123456789") == len;
}

/* As scripts/lib/home.lua finds it, whatever HOME says: every agent of this host must find the same record. */
static int
state_dir(char **out, const char *name, struct err *e)
{
    const char *base = getenv("XDG_STATE_HOME");
    struct user user;
    *out = NULL;
    if (base && *base) {
        *out = mem_printf("%s/moonrise/%s", base, name);
        return 0;
    }
    int rc = user_read(&user, e);
    if (rc == 0)
        *out = mem_printf("%s/.local/state/moonrise/%s", user.home, name);
    user_done(&user);
    return rc;
}

static int
owner_init(struct owner *w, const struct order *o, struct err *e)
{
    char *dir;
    *w = (struct owner){0};
    int rc = message_need_text(o->args, "name", &w->name, e);
    if (rc == 0)
        rc = message_need_text(o->args, "sysid", &w->sysid, e);
    if (rc == 0)
        rc = message_need_text(o->args, "host", &w->host, e);
    if (rc < 0)
        return rc;
    if (!is_word(w->name, 64) || !is_word(w->host, 253) || !is_number(w->sysid, 20))
        return err_set(e, ERR_ARGUMENT,
                       "no record is kept for cluster '%.64s', system '%.24s', "
                       "host '%.253s'",
                       w->name, w->sysid, w->host);
    rc = state_dir(&dir, w->name, e);
    if (rc < 0)
        return rc;
    w->path = mem_printf("%s/coordinator.%s.%s", dir, w->sysid, w->host);
    free(dir);
    return 0;
}

static bool
take_number(int64_t *out, const struct conf *c, const char *key)
{
    const char *text = conf_get(c, key);
    if (!text || !is_number(text, NUMBER_DIGITS))
        return false;
    *out = strtoll(text, NULL, 10);
    return true;
}

static bool
is_text(const struct conf *c, const char *key, const char *want)
{
    const char *text = conf_get(c, key);
    return text && strcmp(text, want) == 0;
}

static bool
record_parse(struct record *r, const struct str *text, const struct owner *w)
{
    struct conf c = CONF_INIT;
    bool sound = sealed_parse(&c, text) && is_text(&c, "name", w->name) &&
                 is_text(&c, "sysid", w->sysid) && is_text(&c, "host", w->host) &&
                 take_number(&r->epoch, &c, "epoch") &&
                 take_number(&r->coordinator, &c, "coordinator") &&
                 take_number(&r->standby, &c, "standby") &&
                 take_number(&r->catalog_epoch, &c, "catalog_epoch") &&
                 (is_text(&c, "mode", "s") || is_text(&c, "mode", "n"));
    r->in_sync = sound && is_text(&c, "mode", "s");
    conf_done(&c);
    return sound;
}

static int
record_read(struct record *r, const struct owner *w, struct err *e)
{
    struct str text = STR_INIT;
    *r = (struct record){0};
    int rc = io_read_file(&text, w->path, RECORD_BYTES, e);
    if (rc == ERR_NOTFOUND)
        return 0;
    r->present = true;
    if (rc == ERR_LIMIT || (rc == 0 && !record_parse(r, &text, w))) {
        rc = err_set(e, ERR_FORMAT, "%s is damaged, or of another cluster or host", w->path);
        err_hint(e,
                 "if a majority of the other hosts have theirs, remove it: the watcher writes it "
                 "anew");
    }
    str_free(&text);
    return rc;
}

static void
put_number(struct conf *c, const char *key, int64_t value)
{
    char text[24];
    snprintf(text, sizeof text, "%" PRId64, value);
    conf_set(c, key, text, NULL);
}

static int
record_write(const struct record *r, const struct owner *w, struct err *e)
{
    struct conf c = CONF_INIT;
    struct str text = STR_INIT;
    /* Words and numbers only, which fail in no file of settings. */
    conf_set(&c, "name", w->name, NULL);
    conf_set(&c, "sysid", w->sysid, NULL);
    conf_set(&c, "host", w->host, NULL);
    put_number(&c, "epoch", r->epoch);
    put_number(&c, "coordinator", r->coordinator);
    put_number(&c, "standby", r->standby);
    conf_set(&c, "mode", r->in_sync ? "s" : "n", NULL);
    put_number(&c, "catalog_epoch", r->catalog_epoch);
    sealed_format(&text, &c);
    int rc = io_write_durable(w->path, text.data, text.len, 0600, e);
    conf_done(&c);
    str_free(&text);
    return rc;
}

/* An epoch that was reserved to take the standby out may be looked at, before that is recorded, by somebody
 * who still finds the pair in sync: so of the two that bear the same epoch the one that is out is newer. */
static bool
is_newer(const struct record *r, const struct record *last)
{
    return r->epoch > last->epoch || (r->epoch == last->epoch && !r->in_sync && last->in_sync);
}

static bool
same_pair(const struct record *a, const struct record *b)
{
    return a->epoch == b->epoch && a->in_sync == b->in_sync && a->coordinator == b->coordinator &&
           a->standby == b->standby;
}

/* A coordinator whose standby was activated on a majority of the hosts may live on, with epochs of its own
 * that grow past those of the activation: only an activation makes another instance the coordinator. */
static int
err_other_coordinator(const struct record *last, const struct owner *w, struct err *e)
{
    err_set(e, ERR_REFUSED, "host %s has on record that dbid %" PRId64 " is the coordinator",
            w->host, last->coordinator);
    return err_hint(e, "its standby has been activated: stop what calls itself the coordinator");
}

/* What the file shall hold after an order for `r`. ERR_STALE, ERR_REFUSED. */
static int
record_merge(struct record *r, const struct record *last, const struct owner *w, struct err *e)
{
    if (!last->present)
        return 0;
    if (r->coordinator != last->coordinator && !r->activates)
        return err_other_coordinator(last, w, e);
    if (!is_newer(r, last) && !same_pair(r, last))
        return err_set(e, ERR_STALE,
                       "host %s has recorded the coordinator's pair with epoch %" PRId64
                       " (mode %s): epoch %" PRId64 " comes too late",
                       w->host, last->epoch, last->in_sync ? "s" : "n", r->epoch);
    if (last->catalog_epoch > r->catalog_epoch)
        r->catalog_epoch = last->catalog_epoch;
    return 0;
}

static int
need_number(int64_t *out, const struct order *o, const char *key, struct err *e)
{
    int rc = message_need_int(o->args, key, out, e);
    if (rc == 0 && (*out < 0 || *out > NUMBER_MAX))
        rc = err_set(e, ERR_ARGUMENT, "%s %" PRId64 " is out of range", key, *out);
    return rc;
}

static int
record_of_args(struct record *r, const struct order *o, struct err *e)
{
    const char *mode;
    *r = (struct record){.present = true};
    int rc = need_number(&r->epoch, o, "epoch", e);
    if (rc == 0)
        rc = need_number(&r->coordinator, o, "coordinator", e);
    if (rc == 0)
        rc = need_number(&r->standby, o, "standby", e);
    if (rc == 0)
        rc = need_number(&r->catalog_epoch, o, "catalog_epoch", e);
    if (rc == 0)
        rc = message_need_text(o->args, "mode", &mode, e);
    if (rc < 0)
        return rc;
    if (strcmp(mode, "s") != 0 && strcmp(mode, "n") != 0)
        return err_set(e, ERR_ARGUMENT, "mode '%.8s' is neither s nor n", mode);
    r->in_sync = strcmp(mode, "s") == 0;
    r->activates = message_bool(o->args, "activates", false);
    if (r->in_sync && r->standby == 0)
        return err_set(e, ERR_ARGUMENT, "nobody is in sync without a standby");
    return 0;
}

static void
tell_record(struct message *m, const struct record *r)
{
    message_set_bool(m, "found", r->present);
    if (!r->present)
        return;
    message_set_int(m, "epoch", r->epoch);
    message_set_int(m, "coordinator", r->coordinator);
    message_set_int(m, "standby", r->standby);
    message_set_text(m, "mode", r->in_sync ? "s" : "n");
    message_set_int(m, "catalog_epoch", r->catalog_epoch);
}

static int
lock_record(int *fd, const struct order *o, const struct owner *w, struct err *e)
{
    char *path = mem_printf("%s.lock", w->path);
    int64_t deadline = order_deadline(o, "wait_ms", LOCK_WAIT_MS);
    int64_t patience = clock_ms() + LOCK_PATIENCE_MS;
    int rc;
    while ((rc = io_lock(fd, path, e)) == ERR_BUSY && clock_ms() < deadline) {
        if (clock_ms() > patience)
            holder_end_stopped(path);
        if (order_pause(o, LOCK_POLL_MS, e) < 0) {
            rc = ERR_CANCELLED;
            break;
        }
    }
    free(path);
    return rc;
}

/* Under the lock: what cannot be written any more, since somebody hangs in it, cannot be relied on. */
int
op_record_read(struct order *o, struct err *e)
{
    struct owner w;
    struct record r = {0};
    int fd = -1;
    int rc = owner_init(&w, o, e);
    char *dir = rc == 0 ? path_dir(w.path) : NULL;
    if (rc == 0 && access(dir, F_OK) == 0)
        rc = lock_record(&fd, o, &w, e);
    if (rc == 0 && fd >= 0)
        rc = record_read(&r, &w, e);
    if (rc == 0)
        tell_record(o->result, &r);
    if (fd >= 0)
        io_unlock(fd);
    free(dir);
    free(w.path);
    return rc;
}

int
op_record_write(struct order *o, struct err *e)
{
    struct owner w;
    struct record r, last;
    int fd;
    int rc = owner_init(&w, o, e);
    char *dir = rc == 0 ? path_dir(w.path) : NULL;
    if (rc == 0)
        rc = record_of_args(&r, o, e);
    if (rc == 0)
        rc = io_make_dirs(dir, 0700, e);
    free(dir);
    if (rc == 0)
        rc = lock_record(&fd, o, &w, e);
    if (rc < 0) {
        free(w.path);
        return rc;
    }
    rc = record_read(&last, &w, e);
    if (rc == 0)
        rc = record_merge(&r, &last, &w, e);
    if (rc == 0)
        rc = record_write(&r, &w, e);
    if (rc == 0)
        tell_record(o->result, &r);
    io_unlock(fd);
    free(w.path);
    return rc;
}
