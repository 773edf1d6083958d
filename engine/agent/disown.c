/*
 * disown: an instance that was adopted gets back the configuration it had before. It goes on running.
 */
#include "adoption.h"
#include "layout.h"
#include "moonrise/base/err.h"
#include "moonrise/base/io.h"
#include "moonrise/base/str.h"
#include "moonrise/loop/loop.h"
#include "order.h"
#include "process.h"
#include "settings.h"
#include "sql.h"

#include <stdlib.h>
#include <string.h>

static const char *const auto_names[] = {"synchronous_standby_names", "primary_conninfo",
                                         "primary_slot_name"};

struct disowning {
    struct order *o;
    struct settings now;
    struct conf before;
    struct db *db; /* NULL while the instance is stopped */
};

/* One setting of postgresql.auto.conf, as it was. */
static int
put_back(struct disowning *d, const char *name, struct err *e)
{
    const char *was = conf_get(&d->before, name), *is = conf_get(&d->now.auto_, name);
    if (was ? is && strcmp(was, is) == 0 : !is)
        return 0;
    if (d->db)
        return sql_alter_system(d->db, name, was, clock_ms() + SQL_TIMEOUT_MS, e);
    if (was)
        return conf_set(&d->now.auto_, name, was, e);
    conf_remove(&d->now.auto_, name);
    return 0;
}

/* Only what moonrise may have changed: what somebody has set since stays. */
static int
put_all_back(struct disowning *d, struct err *e)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < sizeof auto_names / sizeof *auto_names; i++)
        rc = put_back(d, auto_names[i], e);
    for (size_t i = 0; rc == 0 && i < d->now.own.count; i++)
        rc = put_back(d, d->now.own.items[i].name, e);
    return rc == 0 && !d->db ? settings_write_auto(&d->now, d->o->datadir, e) : rc;
}

static int
give_back(struct disowning *d, struct err *e)
{
    struct order *o = d->o;
    int rc = process_prove_stopped(o->datadir, e);
    if (rc == ERR_RUNNING)
        rc = sql_open(&d->db, o, true, e);
    if (rc == 0)
        rc = put_all_back(d, e);
    if (rc == 0)
        rc = settings_leave(o->datadir, e);
    if (rc == 0 && d->db)
        rc = sql_run(d->db, "select pg_reload_conf()", clock_ms() + SQL_TIMEOUT_MS, e);
    db_close(d->db);
    return rc;
}

/* The note of what was before goes last: without it nothing is given back. The lock file stays: an order
 * that comes late still has to find it. */
static int
forget(const struct order *o, struct err *e)
{
    static const char *const names[] = {"moonrise.json", "moonrise.epoch"};
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < sizeof names / sizeof *names; i++) {
        char *path = order_path(o, names[i]);
        rc = io_unlink_durable(path, e);
        rc = rc == ERR_NOTFOUND ? 0 : rc;
        free(path);
    }
    if (rc == 0)
        rc = layout_forget(o, e);
    return rc < 0 ? rc : adoption_forget(o, e);
}

int
op_disown(struct order *o, struct err *e)
{
    struct disowning d = {.o = o, .before = CONF_INIT};
    int rc = adoption_before(&d.before, o, e);
    if (rc == 0)
        rc = settings_read(&d.now, o->datadir, e);
    if (rc == 0) {
        rc = give_back(&d, e);
        settings_done(&d.now);
    }
    conf_done(&d.before);
    if (rc == 0 && message_bool(o->args, "forget", true))
        rc = forget(o, e);
    return rc;
}
