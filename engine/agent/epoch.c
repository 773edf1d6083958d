#include "epoch.h"

#include "holder.h"
#include "moonrise/base/err.h"
#include "moonrise/base/io.h"
#include "moonrise/base/path.h"
#include "moonrise/loop/loop.h"
#include "moonrise/pg/conf.h"
#include "moonrise/pg/datadir.h"
#include "process.h"
#include "sealed.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* How long an older holder may go on before it is ended, and how long anybody waits at all. */
#define LOCK_PATIENCE_MS 1500
#define LOCK_WAIT_MS     15000
#define LOCK_POLL_MS     3

/* Copies text that fits, else leaves it empty: what is too long is none of ours. */
static void
copy_text(char *out, size_t size, const char *text)
{
    size_t len = text ? strlen(text) : size;
    out[0] = '\0';
    if (len < size)
        memcpy(out, text, len + 1);
}

static uint64_t
get_number(const struct conf *c, const char *name)
{
    const char *text = conf_get(c, name);
    return text ? strtoull(text, NULL, 10) : 0;
}

static void
epoch_fill(struct epoch *ep, const struct conf *c)
{
    ep->epoch = get_number(c, "epoch");
    ep->step = (uint32_t)get_number(c, "step");
    ep->dbid = (int)get_number(c, "dbid");
    ep->content = conf_get(c, "content") ? atoi(conf_get(c, "content")) : 0;
    ep->barred = get_number(c, "barred");
    ep->marked = get_number(c, "marked") != 0;
    copy_text(ep->order, sizeof ep->order, conf_get(c, "last"));
    copy_text(ep->reason, sizeof ep->reason, conf_get(c, "reason"));
    copy_text(ep->sysid, sizeof ep->sysid, conf_get(c, "sysid"));
    ep->valid = true;
}

int
epoch_read(struct epoch *out, const char *datadir, struct err *e)
{
    struct str text = STR_INIT;
    struct conf c = CONF_INIT;
    char *path = path_join(datadir, "moonrise.epoch");
    *out = (struct epoch){0};
    int rc = io_read_file(&text, path, EPOCH_FILE_BYTES, e);
    free(path);
    if (rc == ERR_NOTFOUND)
        return 0;
    out->present = true;
    if (rc == 0 && sealed_parse(&c, &text))
        epoch_fill(out, &c);
    else
        snprintf(out->why, sizeof out->why, "it is damaged");
    conf_done(&c);
    str_free(&text);
    return rc == ERR_LIMIT ? 0 : rc;
}

void
epoch_judge(struct epoch *ep, const char *sysid, int dbid)
{
    if (!ep->valid)
        return;
    if (sysid[0] && strcmp(ep->sysid, sysid) != 0) {
        ep->valid = false;
        snprintf(ep->why, sizeof ep->why, "it is of system %s", ep->sysid);
    } else if (dbid && ep->dbid != dbid) {
        ep->valid = false;
        snprintf(ep->why, sizeof ep->why, "it is of dbid %d", ep->dbid);
    }
}

static int
set_number(struct conf *c, const char *name, uint64_t value)
{
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, value);
    return conf_set(c, name, text, NULL);
}

int
epoch_write(const struct epoch *ep, const char *datadir, struct err *e)
{
    struct conf c = CONF_INIT;
    struct str text = STR_INIT;
    char content[12];
    snprintf(content, sizeof content, "%d", ep->content);
    int rc = 0;
    rc |= set_number(&c, "epoch", ep->epoch);
    rc |= set_number(&c, "step", ep->step);
    rc |= conf_set(&c, "last", ep->order, NULL);
    rc |= conf_set(&c, "sysid", ep->sysid, NULL);
    rc |= set_number(&c, "dbid", (uint64_t)ep->dbid);
    rc |= conf_set(&c, "content", content, NULL);
    rc |= set_number(&c, "marked", ep->marked);
    if (ep->barred)
        rc |= set_number(&c, "barred", ep->barred);
    if (ep->reason[0])
        rc |= conf_set(&c, "reason", ep->reason, NULL);
    sealed_format(&text, &c);
    if (rc != 0 || text.len >= EPOCH_FILE_BYTES) {
        rc = err_set(e, ERR_ARGUMENT, "an epoch file cannot hold this order or reason");
    } else {
        char *path = path_join(datadir, "moonrise.epoch");
        rc = io_write_durable(path, text.data, text.len, datadir_file_mode(datadir), e);
        free(path);
    }
    conf_done(&c);
    str_free(&text);
    return rc;
}

int
epoch_compare(const struct epoch *last, const struct claim *c, bool *repeat, struct err *e)
{
    *repeat = c->epoch == last->barred && strcmp(c->op, "bar") == 0;
    if (*repeat)
        return 0;
    if (c->epoch <= last->barred)
        return err_set(e, ERR_STALE,
                       "%s of epoch %" PRIu64 " comes too late: all orders up to epoch %" PRIu64
                       " are barred",
                       c->op, c->epoch, last->barred);
    if (c->epoch > last->epoch || (c->epoch == last->epoch && c->step > last->step))
        return 0;
    if (c->epoch == last->epoch && c->step == last->step && strcmp(c->op, last->order) == 0) {
        *repeat = true;
        return 0;
    }
    return err_set(e, ERR_STALE,
                   "%s of epoch %" PRIu64 " step %" PRIu32
                   " comes too late: the last order was %s of "
                   "epoch %" PRIu64 " step %" PRIu32,
                   c->op, c->epoch, c->step, last->order, last->epoch, last->step);
}

/* The holder as the lock file's text tells. */
struct holder {
    int pid;
    uint64_t start;
    uint64_t epoch;
    uint32_t step;
};

static bool
holder_read(struct holder *h, const char *path)
{
    struct str text = STR_INIT;
    *h = (struct holder){0};
    int n = 0;
    if (io_read_file(&text, path, 256, NULL) == 0)
        n = sscanf(text.data, "%d %" SCNu64 " %" SCNu64 " %" SCNu32, &h->pid, &h->start, &h->epoch,
                   &h->step);
    str_free(&text);
    return n == 4;
}

static int
holder_write(int fd, const struct claim *c, struct err *e)
{
    char text[256];
    int len = snprintf(text, sizeof text, "%d\n%" PRIu64 " %" PRIu64 " %" PRIu32 " %.32s\n",
                       (int)getpid(), process_start(getpid()), c->epoch, c->step, c->op);
    int rc = io_pwrite_full(fd, text, (size_t)len, 0, e);
    if (rc == 0 && ftruncate(fd, len) != 0)
        rc = err_set(e, ERR_IO, "cannot cut the lock file");
    return rc < 0 ? err_wrap(e, "moonrise.lock") : 0;
}

/* Nothing says which order it is. */
static int
err_held(const char *path, int pid, struct err *e)
{
    if (pid > 0)
        err_set(e, ERR_BUSY, "%s is held by process %d, for no order that is known", path, pid);
    else
        err_set(e, ERR_BUSY, "%s is held, it cannot be told by whom", path);
    return err_hint(e, "see what process has that file open, and end it if it hangs");
}

static int
wait_turn(const char *path, const struct claim *c, int64_t waited_ms, struct err *e)
{
    struct holder h;
    int pid = waited_ms > LOCK_PATIENCE_MS ? holder_of(path) : 0;
    bool announced = holder_read(&h, path) && (pid == 0 || pid == h.pid);
    if (!announced) {
        /* It has the lock, and what it is for is not written yet: that takes no time. */
        if (waited_ms > LOCK_PATIENCE_MS)
            holder_end_stopped(path);
        return waited_ms > LOCK_WAIT_MS ? err_held(path, pid, e) : 0;
    }
    if (h.epoch > c->epoch || (h.epoch == c->epoch && h.step > c->step))
        return err_set(e, ERR_STALE, "an order of epoch %" PRIu64 " is being carried out, by %d",
                       h.epoch, h.pid);
    bool older = h.epoch < c->epoch || h.step < c->step;
    if (older && h.pid != getpid() && waited_ms > LOCK_PATIENCE_MS)
        holder_end(h.pid, h.start, path);
    if (waited_ms > LOCK_WAIT_MS)
        return err_set(e, ERR_BUSY, "process %d is carrying out an order of epoch %" PRIu64, h.pid,
                       h.epoch);
    return 0;
}

int
epoch_lock(int *fd, const char *datadir, const struct claim *c, const atomic_bool *cancel,
           struct err *e)
{
    char *path = path_join(datadir, "moonrise.lock");
    int64_t began = clock_ms();
    int rc;
    while ((rc = io_lock(fd, path, e)) == ERR_BUSY) {
        rc = wait_turn(path, c, clock_ms() - began, e);
        if (rc == 0 && cancel && atomic_load(cancel))
            rc = err_set(e, ERR_CANCELLED, "cancelled while it waited for %s", path);
        if (rc < 0)
            break;
        nanosleep(&(struct timespec){.tv_nsec = LOCK_POLL_MS * 1000000L}, NULL);
    }
    if (rc == 0 && (rc = holder_write(*fd, c, e)) < 0)
        io_unlock(*fd);
    if (rc == 0 && fchmod(*fd, datadir_file_mode(datadir)) != 0) {
        rc = err_sys(e, errno, "%s", path);
        io_unlock(*fd);
    }
    if (rc < 0)
        *fd = -1;
    free(path);
    return rc;
}
