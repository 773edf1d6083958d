/*
 * Stopping and fencing: stop, fence, mark. See SAFETY.md rule 3.
 */
#include "aside.h"
#include "moonrise/base/err.h"
#include "moonrise/base/str.h"
#include "moonrise/loop/loop.h"
#include "moonrise/wal/record.h"
#include "order.h"
#include "process.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

#define FENCE_MS 5000
#define POLL_MS  3

/* A stopped instance that is marked cannot be started by anybody any more. */
static int
seal(struct order *o, struct err *e)
{
    return o->last.valid && o->last.marked ? aside_move(o->datadir, e) : 0;
}

static void
add_killed(struct order *o, const struct process_list *killed)
{
    struct message *list = o->result;
    for (size_t i = 0; i < killed->count; i++) {
        char text[12];
        snprintf(text, sizeof text, "%d", killed->items[i].pid);
        message_append_text(list, "killed", text);
    }
}

static int
fence(struct order *o, struct err *e)
{
    struct process_list killed = PROCESS_LIST_INIT;
    int rc = process_kill_all(o->datadir, &killed, order_deadline(o, "fence_ms", FENCE_MS), e);
    if (rc == 0)
        add_killed(o, &killed);
    process_list_done(&killed);
    return rc < 0 ? rc : seal(o, e);
}

int
op_fence(struct order *o, struct err *e)
{
    int rc = fence(o, e);
    if (rc == 0)
        message_set_bool(o->result, "stopped", true);
    return rc;
}

int
op_mark(struct order *o, struct err *e)
{
    snprintf(o->last.reason, sizeof o->last.reason, "%s", message_text(o->args, "reason", ""));
    for (char *p = o->last.reason; *p; p++) {
        if ((unsigned char)*p < ' ')
            *p = ' ';
    }
    o->last.marked = true;
    int rc = order_write_epoch(o, e);
    if (rc < 0)
        return rc;
    /* Still running: it is sealed by the stop or fence that follows. */
    rc = process_prove_stopped(o->datadir, NULL);
    if (rc == 0)
        rc = aside_move(o->datadir, e);
    if (rc < 0 && rc != ERR_RUNNING)
        return rc;
    message_set_bool(o->result, "marked", true);
    message_set_bool(o->result, "aside", rc == 0);
    return 0;
}

static int
mode_signal(const char *mode, struct err *e)
{
    if (strcmp(mode, "smart") == 0)
        return SIGTERM;
    if (strcmp(mode, "fast") == 0)
        return SIGINT;
    if (strcmp(mode, "immediate") == 0)
        return SIGQUIT;
    return err_set(e, ERR_ARGUMENT, "mode '%s' is none of smart, fast, immediate", mode);
}

/* Waits, without the lock, for the process to end. ERR_TIMEOUT, ERR_CANCELLED. */
static int
await_end(const struct order *o, int pid, uint64_t start, int64_t deadline_ms, struct err *e)
{
    while (process_alive(pid, start)) {
        if (clock_ms() > deadline_ms)
            return err_set(e, ERR_TIMEOUT, "the server in %s (process %d) has not stopped in time",
                           o->datadir, pid);
        int rc = order_pause(o, POLL_MS, e);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* Where it stopped: of use only after a clean shutdown. */
static void
tell_end(struct order *o)
{
    struct control c;
    struct wal_record record;
    char lsn[LSN_TEXT_BYTES];
    bool aside;
    message_set_bool(o->result, "stopped", true);
    if (aside_read(&c, &aside, o->datadir, NULL) < 0)
        return;
    message_set_int(o->result, "timeline", c.timeline);
    message_set_text(o->result, "state", control_state_name(c.state));
    if (!aside && c.state == CONTROL_SHUTDOWNED && wal_shutdown_end(&record, o->datadir, NULL) == 0)
        message_set_text(o->result, "shutdown_end", lsn_format(lsn, record.end_lsn));
}

/* Signals the postmaster and waits for it; what it leaves behind is killed under the lock. */
static int
stop_running(struct order *o, int signum, bool may_fence, struct err *e)
{
    int pid;
    int rc = process_signal_postmaster(o->datadir, signum, &pid, e);
    if (rc == 0) {
        uint64_t start = process_start(pid);
        order_unlock(o);
        rc = start ? await_end(o, pid, start, order_deadline(o, "wait_ms", 30000), e) : 0;
        if (rc == ERR_CANCELLED || (rc == ERR_TIMEOUT && !may_fence))
            return rc;
        message_set_bool(o->result, "fenced", rc == ERR_TIMEOUT);
        rc = order_relock(o, e);
    } else if (rc == ERR_NOTFOUND) {
        rc = 0; /* only what a killed postmaster has left */
    }
    return rc < 0 ? rc : fence(o, e);
}

int
op_stop(struct order *o, struct err *e)
{
    const char *mode = message_text(o->args, "mode", "fast");
    int signum = mode_signal(mode, e);
    if (signum < 0)
        return signum;
    bool may_fence = message_bool(o->args, "fence", signum != SIGTERM);
    message_set_bool(o->result, "fenced", false);
    int rc = process_prove_stopped(o->datadir, e);
    if (rc == 0)
        rc = seal(o, e);
    else if (rc == ERR_RUNNING)
        rc = stop_running(o, signum, may_fence, e);
    if (rc < 0)
        return rc;
    tell_end(o);
    return 0;
}
