#include "source.h"

#include "moonrise/base/err.h"
#include "moonrise/base/path.h"
#include "moonrise/base/str.h"
#include "moonrise/loop/loop.h"
#include "moonrise/pg/control.h"
#include "moonrise/pg/label.h"
#include "slot.h"
#include "sql.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECKPOINT_MS 600000

/* The session is not one of an order on the source, so no other order there ends it. */
static int
open_session(struct source *s, const struct message *args, struct err *e)
{
    char name[48];
    snprintf(name, sizeof name, "moonrise recover %d", s->o->dbid);
    struct sql_place place = {.datadir = s->datadir,
                              .user = message_text(args, "user", s->o->user),
                              .passfile = message_text(args, "passfile", s->o->passfile),
                              .dbname = s->o->dbname,
                              .name = name,
                              .statement_ms = 0};
    int rc = sql_connect(&s->db, &place, s->o, e);
    if (rc == 0 && db_server_version(s->db) >= 140000)
        rc = sql_run(s->db, "set idle_session_timeout = 0", clock_ms() + SQL_TIMEOUT_MS, e);
    return rc;
}

static int
check_sysid(struct source *s, struct err *e)
{
    struct control c;
    char text[24], *path = path_join(s->datadir, "global/pg_control");
    int rc = control_read(&c, path, NULL, e);
    free(path);
    if (rc < 0)
        return rc;
    s->sysid = c.system_identifier;
    snprintf(text, sizeof text, "%" PRIu64, s->sysid);
    if (s->o->sysid[0] && strcmp(s->o->sysid, text) != 0)
        return err_set(e, ERR_REFUSED, "the source %s is of system %s, not of %s", s->datadir, text,
                       s->o->sysid);
    return 0;
}

int
source_open(struct source *s, struct order *o, struct err *e)
{
    const struct message *args = message_object(o->args, "source");
    const char *datadir;
    bool in_recovery = true, images = false;
    *s = (struct source){.o = o};
    if (!args)
        return err_set(e, ERR_PROTOCOL, "'source' is missing");
    int rc = message_need_text(args, "datadir", &datadir, e);
    if (rc == 0)
        rc = message_need_text(o->args, "slot", &s->slot, e);
    if (rc == 0)
        rc = path_canonical(&s->datadir, datadir, e);
    if (rc == 0)
        rc = check_sysid(s, e);
    if (rc == 0)
        rc = open_session(s, args, e);
    if (rc == 0)
        rc = sql_bool(&in_recovery, s->db, "select pg_is_in_recovery()",
                      clock_ms() + SQL_TIMEOUT_MS, e);
    if (rc == 0)
        rc = sql_bool(&images, s->db, "select current_setting('full_page_writes')::bool",
                      clock_ms() + SQL_TIMEOUT_MS, e);
    if (rc == 0 && in_recovery)
        rc = err_set(e, ERR_REFUSED, "the source %s is in recovery", s->datadir);
    if (rc == 0 && !images)
        rc = err_set(e, ERR_REFUSED, "full_page_writes is off on the source %s", s->datadir);
    return rc < 0 ? err_wrap(e, "source") : 0;
}

/* WAL from the backup's start on is held by the slot. */
static int
check_slot(struct source *s, struct err *e)
{
    const char *params[] = {s->slot, s->start_lsn};
    struct statement st = {.sql = "select restart_lsn <= $2::pg_lsn from pg_replication_slots "
                                  "where slot_name = $1 and wal_status is distinct from 'lost'",
                           .nparams = 2,
                           .params = params};
    const struct result *r;
    int rc = db_query(s->db, &r, &st, clock_ms() + SQL_TIMEOUT_MS, e);
    if (rc < 0)
        return rc;
    const char *holds = result_rows(r) > 0 ? result_get(r, 0, 0) : NULL;
    if (!holds || *holds != 't') {
        err_set(e, ERR_REFUSED, "slot %s does not hold the WAL from %s on", s->slot, s->start_lsn);
        return err_hint(e, "max_slot_wal_keep_size may be too small for this copy");
    }
    return 0;
}

int
source_begin(struct source *s, struct err *e)
{
    bool made;
    char *lsn, sql[128];
    bool named_new = db_server_version(s->db) >= 150000;
    int rc = slot_create(&made, s->db, s->slot, e);
    if (rc == 0) /* its mirror is stopped: whoever holds it is what that left behind */
        rc = slot_free_up(s->db, s->o, s->slot, e);
    if (rc < 0)
        return rc;
    /* `fast` is the immediate checkpoint; it is complete when this returns. */
    snprintf(sql, sizeof sql, "select %s('moonrise recover %d', true%s)",
             named_new ? "pg_backup_start" : "pg_start_backup", s->o->dbid,
             named_new ? "" : ", false");
    rc = sql_text(&lsn, s->db, sql, clock_ms() + CHECKPOINT_MS, e);
    if (rc == 0)
        snprintf(s->start_lsn, sizeof s->start_lsn, "%s", lsn ? lsn : "");
    free(lsn);
    return rc < 0 ? err_wrap(e, "beginning a backup") : check_slot(s, e);
}

int
source_check(struct source *s, struct err *e)
{
    int rc = sql_run(s->db, "select 1", clock_ms() + SQL_TIMEOUT_MS, e);
    if (rc < 0) {
        err_wrap(e, "the backup session with the source %s", s->datadir);
        err_hint(e, "once the source runs, run the recovery again: it goes on where it was");
    }
    return rc;
}

int
source_end(struct source *s, struct err *e)
{
    struct label label;
    const char *sql = db_server_version(s->db) >= 150000
                          ? "select labelfile from pg_backup_stop(wait_for_archive => false)"
                          : "select labelfile from pg_stop_backup(false, false)";
    int rc = check_slot(s, e);
    if (rc == 0)
        rc = sql_text(&s->label, s->db, sql, clock_ms() + CHECKPOINT_MS, e);
    if (rc == 0)
        rc = label_parse(&label, s->label ? s->label : "", s->label ? strlen(s->label) : 0, e);
    return rc < 0 ? err_wrap(e, "ending the backup") : 0;
}

void
source_close(struct source *s)
{
    db_close(s->db);
    free(s->datadir);
    free(s->label);
    *s = (struct source){0};
}
