/*
 * configure and adopt: what moonrise writes into an instance's own files.
 */
#include "adoption.h"
#include "aside.h"
#include "layout.h"
#include "moonrise/base/err.h"
#include "moonrise/base/io.h"
#include "moonrise/base/str.h"
#include "moonrise/loop/loop.h"
#include "order.h"
#include "process.h"
#include "settings.h"
#include "sql.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int
op_adopt(struct order *o, struct err *e)
{
    struct control c;
    bool aside;
    char sysid[24];
    if (o->last.valid && o->last.marked)
        return err_set(e, ERR_REFUSED, "%s is marked: only a recovery adopts it again", o->datadir);
    int rc = aside_read(&c, &aside, o->datadir, e);
    if (rc < 0)
        return rc;
    snprintf(sysid, sizeof sysid, "%" PRIu64, c.system_identifier);
    if (aside || file_exists(o->datadir, "moonrise.patch"))
        return err_set(e, ERR_REFUSED, "%s is half-made", o->datadir);
    if (o->sysid[0] && strcmp(o->sysid, sysid) != 0)
        return err_set(e, ERR_REFUSED, "%s is of system %s, not of %s", o->datadir, sysid,
                       o->sysid);
    if (message_text(o->args, "adoption", NULL) && (rc = adoption_keep(o, e)) < 0)
        return rc;
    if ((rc = layout_keep(o, e)) < 0)
        return rc;
    o->last = (struct epoch){.dbid = o->dbid, .content = o->content};
    snprintf(o->last.sysid, sizeof o->last.sysid, "%s", sysid);
    rc = order_write_epoch(o, e);
    if (rc < 0)
        return rc;
    message_set_text(o->result, "sysid", sysid);
    message_set_bool(o->result, "adopted", true);
    return 0;
}

/* standby.signal as args.standby says. Without it a mirror would start as a primary of its own, so it is
 * taken away only from what was shut down as a primary. */
static int
set_standby(struct order *o, bool standby, struct err *e)
{
    struct control c;
    bool aside;
    char *signal_path = order_path(o, "standby.signal"), *other = order_path(o, "recovery.signal");
    int rc = 0;
    if (standby) {
        rc = io_write_durable(signal_path, "", 0, 0600, e);
    } else if (file_exists(o->datadir, "standby.signal")) {
        rc = aside_read(&c, &aside, o->datadir, e);
        if (rc == 0 && c.state != CONTROL_SHUTDOWNED)
            rc = err_set(e, ERR_REFUSED, "%s was no primary when it stopped", o->datadir);
        if (rc == 0)
            rc = io_unlink_durable(signal_path, e);
    }
    if (rc == 0 && (rc = io_unlink_durable(other, e)) == ERR_NOTFOUND)
        rc = 0;
    free(signal_path);
    free(other);
    return rc;
}

static bool
standby_given(const struct order *o, bool *standby)
{
    *standby = message_bool(o->args, "standby", false);
    return *standby == message_bool(o->args, "standby", true);
}

struct change {
    struct db *db;
    const struct conf *auto_; /* as it was */
    int rc;
    struct err *e;
};

/* One setting of postgresql.auto.conf on a running server. */
static void
alter_one(void *arg, const char *name, const char *text)
{
    struct change *c = arg;
    if (c->rc < 0 || !settings_is_auto(name))
        return;
    if (strcmp(text, "false") == 0)
        text = NULL;
    int64_t deadline = clock_ms() + SQL_TIMEOUT_MS;
    if (strcmp(name, "synchronous_standby_names") != 0) {
        c->rc = sql_alter_system(c->db, name, text, deadline, c->e);
        return;
    }
    char *now;
    c->rc = sql_text(&now, c->db, "show synchronous_standby_names", deadline, c->e);
    if (c->rc == 0 && strcmp(now ? now : "", text ? text : "") != 0)
        c->rc = err_set(c->e, ERR_REFUSED,
                        "synchronous_standby_names of a running server is for arm and release");
    free(now);
}

/* A setting that is in moonrise.conf now: what ALTER SYSTEM has said of it would win. */
static void
reset_one(void *arg, const char *name, const char *text)
{
    struct change *c = arg;
    if (c->rc == 0 && !settings_is_auto(name) && strcmp(text, "false") != 0 &&
        conf_get(c->auto_, name))
        c->rc = sql_alter_system(c->db, name, NULL, clock_ms() + SQL_TIMEOUT_MS, c->e);
}

static int
configure_running(struct order *o, const struct conf *before, struct settings *s, struct err *e)
{
    struct change c = {.auto_ = before, .e = e};
    bool standby;
    if (standby_given(o, &standby) && standby != file_exists(o->datadir, "standby.signal"))
        return err_set(e, ERR_RUNNING, "the role of a running server cannot be configured");
    int rc = sql_open(&c.db, o, true, e);
    if (rc < 0)
        return rc;
    message_each(o->args, "settings", alter_one, &c);
    rc = c.rc;
    if (rc == 0)
        rc = settings_write_own(s, o->datadir, e);
    if (rc == 0) {
        message_each(o->args, "settings", reset_one, &c);
        rc = c.rc;
    }
    if (rc == 0)
        rc = settings_hba(o->datadir, o->args, false, e);
    if (rc == 0 && message_bool(o->args, "reload", true))
        rc = sql_run(c.db, "select pg_reload_conf()", clock_ms() + SQL_TIMEOUT_MS, e);
    db_close(c.db);
    return rc;
}

static int
configure_stopped(struct order *o, struct settings *s, struct err *e)
{
    int rc = settings_write(s, o->datadir, e);
    if (rc == 0)
        rc = settings_hba(o->datadir, o->args, false, e);
    /* The signal file comes last: until then the instance starts as what it was. */
    bool standby;
    if (rc == 0 && standby_given(o, &standby))
        rc = set_standby(o, standby, e);
    return rc;
}

int
op_reload(struct order *o, struct err *e)
{
    struct sql_place place = {.datadir = o->datadir,
                              .user = o->user,
                              .passfile = o->passfile,
                              .dbname = o->dbname,
                              .name = "moonrise reload",
                              .statement_ms = SQL_TIMEOUT_MS};
    struct db *db;
    int rc = sql_connect(&db, &place, o, e);
    if (rc == 0)
        rc = sql_run(db, "select pg_reload_conf()", clock_ms() + SQL_TIMEOUT_MS, e);
    db_close(db);
    return rc;
}

int
op_configure(struct order *o, struct err *e)
{
    struct settings s, before;
    int rc = settings_read(&s, o->datadir, e);
    if (rc < 0)
        return rc;
    rc = settings_read(&before, o->datadir, e);
    if (rc == 0) {
        rc = settings_merge(&s, o->args, true, e);
        if (rc == 0)
            rc = process_prove_stopped(o->datadir, e);
        bool running = rc == ERR_RUNNING;
        if (rc == 0)
            rc = configure_stopped(o, &s, e);
        else if (running)
            rc = configure_running(o, &before.auto_, &s, e);
        message_set_bool(o->result, "running", running);
        settings_done(&before);
    }
    settings_done(&s);
    return rc;
}
