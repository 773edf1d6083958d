#include "order.h"

#include "adoption.h"
#include "aside.h"
#include "inspect.h"
#include "maker.h"
#include "moonrise/base/err.h"
#include "moonrise/base/io.h"
#include "moonrise/base/path.h"
#include "moonrise/base/str.h"
#include "moonrise/loop/loop.h"
#include "moonrise/pg/conf.h"
#include "replaced.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define DEADLINE_MAX_MS (600 * 1000)

static int
read_numbers(struct order *o, struct err *e)
{
    int64_t dbid, epoch, step;
    int rc = message_need_int(o->args, "dbid", &dbid, e);
    if (rc == 0)
        rc = message_need_int(o->args, "epoch", &epoch, e);
    if (rc == 0)
        rc = message_need_int(o->args, "step", &step, e);
    if (rc < 0)
        return rc;
    if (dbid < 1 || dbid > INT32_MAX || epoch < 1 || step < 0 || step > INT32_MAX)
        return err_set(e, ERR_ARGUMENT, "dbid, epoch or step is out of range");
    o->dbid = (int)dbid;
    o->claim.epoch = (uint64_t)epoch;
    o->claim.step = (uint32_t)step;
    return 0;
}

static int
read_datadir(struct order *o, struct err *e)
{
    const char *datadir;
    int rc = message_need_text(o->args, "datadir", &datadir, e);
    if (rc < 0)
        return rc;
    if (datadir[0] != '/' || strchr(datadir, '\n') || strcmp(datadir, "/") == 0)
        return err_set(e, ERR_ARGUMENT, "datadir '%s' is no absolute path of one", datadir);
    if (path_canonical(&o->datadir, datadir, NULL) < 0)
        o->datadir = mem_strdup(datadir);
    return 0;
}

int
order_init(struct order *o, const struct agent_call *call, unsigned flags, struct err *e)
{
    const struct message *args = call->args;
    *o = (struct order){.call = call, .args = args, .lock_fd = -1};
    o->result = message_new();
    o->claim.op = call->op;
    if (flags & ORDER_HOST)
        return 0;
    int64_t port = message_int(args, "port", 0);
    if (port < 0 || port > 65535)
        return err_set(e, ERR_ARGUMENT, "port %" PRId64 " is none", port);
    o->port = (int)port;
    o->bin = message_text(args, "bin", "");
    o->user = message_text(args, "user", "");
    o->passfile = message_text(args, "passfile", "");
    o->dbname = message_text(args, "dbname", "postgres");
    o->content = (int)message_int(args, "content", 0);
    o->sysid = message_text(args, "sysid", "");
    o->dbid = (int)message_int(args, "dbid", 0);
    int rc = read_datadir(o, e);
    if (rc == 0 && (flags & ORDER_ORDER))
        rc = read_numbers(o, e);
    return rc;
}

/* The system identifier of what lies in the directory, "" when nothing says it. */
static void
sysid_on_disk(char sysid[24], const char *datadir)
{
    struct control c;
    bool aside;
    sysid[0] = '\0';
    if (aside_read(&c, &aside, datadir, NULL) == 0)
        snprintf(sysid, 24, "%" PRIu64, c.system_identifier);
}

static int
err_no_epoch(const struct order *o, struct err *e)
{
    err_set(e, ERR_REFUSED, "%s: no valid moonrise.epoch%s%s", o->datadir,
            o->last.present ? ": " : "", o->last.why);
    return err_hint(e, "the instance has not been adopted, or was replaced: recover it");
}

static int
compare_and_write(struct order *o, unsigned flags, struct err *e)
{
    char sysid[24];
    int rc = epoch_read(&o->last, o->datadir, e);
    if (rc < 0)
        return rc;
    sysid_on_disk(sysid, o->datadir);
    if (o->sysid[0] && sysid[0] && strcmp(sysid, o->sysid) != 0 && !(flags & ORDER_CREATES))
        return err_set(e, ERR_REFUSED, "%s is of system %s, not of %s", o->datadir, sysid,
                       o->sysid);
    /* What replaces a directory of another system is not bound by that one's epochs. */
    if (!(flags & ORDER_CREATES))
        epoch_judge(&o->last, sysid, o->dbid);
    epoch_judge(&o->last, o->sysid, o->dbid);
    if (!o->last.valid)
        return flags & ORDER_CREATES ? 0 : err_no_epoch(o, e);
    rc = epoch_compare(&o->last, &o->claim, &o->repeat, e);
    if (rc < 0 || o->repeat || (flags & ORDER_BARS))
        return rc;
    return order_write_epoch(o, e);
}

/* PostgreSQL serves no directory that others may read or the group may write; an empty one that somebody
 * has made beforehand is often so. Nobody else's directory is touched. */
static int
close_dir(const char *dir, struct err *e)
{
    struct stat st;
    enum datadir_kind kind;
    int rc = datadir_kind(&kind, dir, e);
    if (rc < 0)
        return rc;
    if (stat(dir, &st) != 0)
        return err_sys(e, errno, "%s", dir);
    if (kind == KIND_EMPTY && (st.st_mode & 0027) != 0 && chmod(dir, 0700) != 0)
        return err_sys(e, errno, "cannot change the mode of %s", dir);
    return 0;
}

int
order_make_dir(struct order *o, struct err *e)
{
    char *real;
    int rc = io_make_dirs(o->datadir, 0700, e);
    if (rc == 0)
        rc = close_dir(o->datadir, e);
    if (rc == 0)
        rc = path_canonical(&real, o->datadir, e);
    if (rc < 0)
        return rc;
    free(o->datadir);
    o->datadir = real;
    return 0;
}

int
order_compare_note(const struct order *o, struct err *e)
{
    struct conf c = CONF_INIT;
    char *path = order_path(o, "moonrise.patch");
    struct epoch last = {0};
    bool repeat;
    int rc = 0;
    if (conf_read(&c, path, NULL) == 0 && conf_get(&c, "epoch") && conf_get(&c, "step")) {
        const char *whose = conf_get(&c, "dbid"), *by = conf_get(&c, "order");
        last.epoch = strtoull(conf_get(&c, "epoch"), NULL, 10);
        last.step = (uint32_t)strtoul(conf_get(&c, "step"), NULL, 10);
        snprintf(last.order, sizeof last.order, "%s", by ? by : "recover");
        if (!whose || atoi(whose) == o->dbid)
            rc = epoch_compare(&last, &o->claim, &repeat, e);
    }
    conf_done(&c);
    free(path);
    return rc;
}

/* Whether the directory is the one that is meant, where its path alone does not say so. */
static int
check_identity(const struct order *o, unsigned flags, struct err *e)
{
    if (flags & ORDER_REMOVES)
        return message_bool(o->args, "replaced", false) ? replaced_check(o, e) : maker_check(o, e);
    return flags & ORDER_DISOWNS ? adoption_check(o, e) : 0;
}

int
order_begin(struct order *o, unsigned flags, struct err *e)
{
    struct stat st;
    if (stat(o->datadir, &st) != 0 && errno == ENOENT && (flags & ORDER_REMOVES))
        return 0;
    if (stat(o->datadir, &st) != 0)
        return err_set(e, ERR_NOTFOUND, "%s does not exist", o->datadir);
    /* An order that is not for this instance neither ends older ones that are, nor leaves its epoch. */
    int rc = check_identity(o, flags, e);
    if (rc == 0)
        rc = epoch_lock(&o->lock_fd, o->datadir, &o->claim, o->call->cancel, e);
    if (rc == 0)
        rc = check_identity(o, flags, e);
    if (rc == 0)
        rc = compare_and_write(o, flags, e);
    if (rc < 0)
        order_unlock(o);
    return rc;
}

void
order_unlock(struct order *o)
{
    if (o->lock_fd >= 0)
        io_unlock(o->lock_fd);
    o->lock_fd = -1;
}

int
order_relock(struct order *o, struct err *e)
{
    struct epoch now;
    if (o->lock_fd >= 0)
        return 0;
    int rc = epoch_lock(&o->lock_fd, o->datadir, &o->claim, o->call->cancel, e);
    if (rc == 0)
        rc = epoch_read(&now, o->datadir, e);
    if (rc == 0 && (now.epoch != o->claim.epoch || now.step != o->claim.step))
        rc = err_set(e, ERR_STALE, "another order (%s of epoch %" PRIu64 ") has come meanwhile",
                     now.order, now.epoch);
    if (rc == 0 && now.barred >= o->claim.epoch)
        rc = err_set(e, ERR_STALE, "orders up to epoch %" PRIu64 " have been barred meanwhile",
                     now.barred);
    if (rc < 0)
        order_unlock(o);
    return rc;
}

int
order_write_epoch(struct order *o, struct err *e)
{
    o->last.present = o->last.valid = true;
    o->last.epoch = o->claim.epoch;
    o->last.step = o->claim.step;
    o->last.barred = 0;
    snprintf(o->last.order, sizeof o->last.order, "%s", o->claim.op);
    return epoch_write(&o->last, o->datadir, e);
}

bool
order_cancelled(const struct order *o)
{
    return o->call->cancel && atomic_load(o->call->cancel);
}

int
order_pause(const struct order *o, int64_t ms, struct err *e)
{
    if (order_cancelled(o))
        return err_set(e, ERR_CANCELLED, "%s was cancelled", o->call->op);
    nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L}, NULL);
    return 0;
}

int64_t
order_deadline(const struct order *o, const char *key, int64_t otherwise)
{
    int64_t ms = message_int(o->args, key, otherwise);
    if (ms < 0)
        ms = 0;
    return clock_ms() + (ms > DEADLINE_MAX_MS ? DEADLINE_MAX_MS : ms);
}

char *
order_path(const struct order *o, const char *name)
{
    return path_join(o->datadir, name);
}

bool
file_exists(const char *datadir, const char *name)
{
    char *path = path_join(datadir, name);
    bool exists = access(path, F_OK) == 0;
    free(path);
    return exists;
}

void
order_done(struct order *o)
{
    order_unlock(o);
    free(o->datadir);
    message_free(o->result);
    *o = (struct order){.lock_fd = -1};
}
