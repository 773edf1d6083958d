#include "source.h"

#include "moonrise/base/err.h"
#include "moonrise/base/io.h"
#include "moonrise/base/path.h"
#include "moonrise/base/str.h"
#include "moonrise/loop/loop.h"
#include "moonrise/pg/control.h"
#include "moonrise/pg/label.h"
#include "moonrise/pg/pidfile.h"
#include "process.h"
#include "slot.h"
#include "sql.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHECKPOINT_MS  600000
#define LINK_BYTES     4096
#define FILE_BYTES_MAX (1u << 20)
#define SLOT_IN_USE    "55006"

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

static int
here_open(struct source *s, const struct message *args, struct err *e)
{
    bool in_recovery = true, images = false;
    int rc = path_canonical(&s->datadir, message_text(args, "datadir", ""), e);
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
    if (rc < 0)
        return rc;
    s->same_machine = true;
    s->boot_id = source_boot_id();
    source_place_read(&s->home, s->datadir);
    return 0;
}

static int
slot_lost(const struct source *s, struct err *e)
{
    char lsn[LSN_TEXT_BYTES];
    err_set(e, ERR_REFUSED, "slot %s does not hold the WAL from %s on", s->slot,
            lsn_format(lsn, s->keeps_lsn));
    return err_hint(e, "more is written than max_slot_wal_keep_size, or the room for WAL, allows: "
                       "run the recovery again when less is, or raise it");
}

/* Once the backup has ended the target's own receiver may have the slot, and move it. */
static int
check_slot(struct source *s, struct source_wal *wal, struct err *e)
{
    static const char sql[] =
        "select restart_lsn <= $2::pg_lsn or ($3::bool and active_pid is not null), "
        "pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint, safe_wal_size "
        "from pg_replication_slots where slot_name = $1 and wal_status is distinct from 'lost'";
    char lsn[LSN_TEXT_BYTES];
    const char *params[] = {s->slot, lsn_format(lsn, s->keeps_lsn), s->ended ? "true" : "false"};
    struct statement st = {.sql = sql, .nparams = 3, .params = params};
    const struct result *r;
    int rc = db_query(s->db, &r, &st, clock_ms() + SQL_TIMEOUT_MS, e);
    if (rc < 0)
        return rc;
    const char *holds = result_rows(r) > 0 ? result_get(r, 0, 0) : NULL;
    if (!holds || *holds != 't')
        return slot_lost(s, e);
    const char *held = result_get(r, 0, 1), *left = result_get(r, 0, 2);
    wal->held_bytes = held ? strtoull(held, NULL, 10) : 0;
    wal->left_bytes = !left ? UINT64_MAX : *left == '-' ? 0 : strtoull(left, NULL, 10);
    return 0;
}

/* What the slot holds back lies in this room, too. */
static uint64_t
wal_room(const struct source *s)
{
    uint64_t room;
    char *path = path_join(s->datadir, "pg_wal");
    bool known = io_free_bytes(&room, path, NULL) == 0;
    free(path);
    return known ? room : UINT64_MAX;
}

/* A server moves slots by itself only for who streams from them, and what carries WAL may not: the holder of
 * this slot is taken for the mirror. */
static int
move_slot(struct source *s, struct err *e)
{
    static const char sql[] =
        "select pg_replication_slot_advance(slot_name, $2::pg_lsn) from pg_replication_slots "
        "where slot_name = $1 and active_pid is null and restart_lsn < $2::pg_lsn "
        "and wal_status is distinct from 'lost'";
    char lsn[LSN_TEXT_BYTES];
    const char *params[] = {s->slot, lsn_format(lsn, s->keeps_lsn)};
    struct statement st = {.sql = sql, .nparams = 2, .params = params};
    const struct result *r;
    struct err why;
    int rc = db_query(s->db, &r, &st, clock_ms() + SQL_TIMEOUT_MS, &why);
    if (rc < 0 && strcmp(why.sqlstate, SLOT_IN_USE) == 0)
        return 0;
    if (rc < 0 && e)
        *e = why;
    return rc < 0 ? err_wrap(e, "moving slot %s", s->slot) : 0;
}

static int
here_keep(struct source *s, struct source_wal *wal, struct err *e)
{
    if (!s->db)
        return err_set(e, ERR_PROTOCOL, "the session with the source is closed");
    s->carried = wal->carried;
    if (wal->from > s->keeps_lsn)
        s->keeps_lsn = wal->from;
    int rc = move_slot(s, e);
    if (rc == 0)
        rc = check_slot(s, wal, e);
    if (rc < 0)
        return rc;
    uint64_t room = wal_room(s);
    if (room < wal->left_bytes)
        wal->left_bytes = room;
    return 0;
}

/* The slot was made, or found good, before the checkpoint, which may have left it behind: one that is made now
 * holds WAL from that checkpoint on. */
static int
keep_slot(struct source *s, struct err *e)
{
    struct source_wal wal;
    bool made;
    int rc = check_slot(s, &wal, e);
    if (rc != ERR_REFUSED)
        return rc;
    rc = slot_create(&made, s->db, s->slot, e);
    return rc < 0 ? rc : check_slot(s, &wal, e);
}

static int
here_begin(struct source *s, struct err *e)
{
    bool made;
    char sql[128];
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
    rc = sql_lsn(&s->start_lsn, s->db, sql, clock_ms() + CHECKPOINT_MS, e);
    s->keeps_lsn = s->start_lsn;
    return rc < 0 ? err_wrap(e, "beginning a backup") : keep_slot(s, e);
}

static int
here_check(struct source *s, struct err *e)
{
    return sql_run(s->db, "select 1", clock_ms() + SQL_TIMEOUT_MS, e);
}

static int
here_end(struct source *s, struct err *e)
{
    struct label label;
    const char *sql = db_server_version(s->db) >= 150000
                          ? "select labelfile from pg_backup_stop(wait_for_archive => false)"
                          : "select labelfile from pg_stop_backup(false, false)";
    struct source_wal wal;
    int rc = check_slot(s, &wal, e);
    if (rc == 0)
        rc = sql_text(&s->label, s->db, sql, clock_ms() + CHECKPOINT_MS, e);
    if (rc == 0)
        rc = label_parse(&label, s->label ? s->label : "", s->label ? strlen(s->label) : 0, e);
    if (rc < 0)
        return err_wrap(e, "ending the backup");
    s->ended = true;
    if (s->carried)
        return 0;
    db_close(s->db);
    s->db = NULL;
    return 0;
}

/* How the directories that the source's server sees are reached from here: "" when it sees ours. */
static char *
source_prefix(const struct source *source)
{
    struct pidfile pf;
    struct stat ours, theirs;
    char path[64], *prefix = NULL;
    if (pidfile_read(&pf, source->datadir, NULL) < 0)
        return mem_strdup("");
    snprintf(path, sizeof path, "/proc/%d/ns/mnt", pf.pid);
    if (stat("/proc/self/ns/mnt", &ours) == 0 && stat(path, &theirs) == 0 &&
        (ours.st_ino != theirs.st_ino || ours.st_dev != theirs.st_dev))
        prefix = mem_printf("/proc/%d/root", pf.pid);
    pidfile_done(&pf);
    return prefix ? prefix : mem_strdup("");
}

/* Where the source's link leads, as seen from here. What is seen through another process is not made
 * canonical: /proc/PID/root would be taken for a link to our own root. */
static int
source_real(char **out, const char *prefix, const char *path, struct err *e)
{
    *out = NULL;
    if (*prefix == '\0')
        return path_canonical(out, path, e);
    if (*path != '/')
        return err_set(e, ERR_REFUSED, "a tablespace's link is not absolute: \"%s\"", path);
    *out = mem_printf("%s%s", prefix, path);
    return 0;
}

static int
add_link(struct source *s, const char *prefix, const char *oid, struct err *e)
{
    char to[LINK_BYTES], *real, *path = mem_printf("%s/pg_tblspc/%s", s->datadir, oid);
    ssize_t n = readlink(path, to, sizeof to - 1);
    free(path);
    if (n <= 0) /* a directory in place: part of the data directory */
        return 0;
    to[n] = '\0';
    int rc = source_real(&real, prefix, to, e);
    if (rc < 0)
        return rc;
    struct source_space space = {.oid = mem_strdup(oid), .path = mem_strdup(to)};
    source_place_read(&space.place, real);
    source_add_space(s, &space);
    free(real);
    return 0;
}

static int
here_spaces(struct source *s, struct err *e)
{
    char *dir_name = path_join(s->datadir, "pg_tblspc"), *prefix = source_prefix(s);
    DIR *dir = opendir(dir_name);
    struct dirent *entry;
    int rc = dir ? 0 : err_sys(e, errno, "%s", dir_name);
    while (rc == 0 && (entry = readdir(dir)) != NULL)
        rc = add_link(s, prefix, entry->d_name, e);
    if (dir)
        closedir(dir);
    free(prefix);
    free(dir_name);
    return rc;
}

/* A file that is missing is none of the source's. */
static int
add_file(struct source *s, const char *name, struct err *e)
{
    struct str text = STR_INIT;
    char *path = path_join(s->datadir, name);
    int rc = io_read_file(&text, path, FILE_BYTES_MAX, e);
    free(path);
    if (rc == 0)
        source_add_file_take(s, name, &text);
    return rc == ERR_NOTFOUND ? 0 : rc;
}

/* Without its history files a standby takes a timeline for one that has no past. */
static int
here_files(struct source *s, struct err *e)
{
    char *from = path_join(s->datadir, "pg_wal");
    DIR *dir = opendir(from);
    struct dirent *entry;
    int rc = dir ? 0 : err_sys(e, errno, "%s", from);
    if (rc == 0)
        rc = add_file(s, "moonrise.conf", e);
    if (rc == 0)
        rc = add_file(s, "postgresql.auto.conf", e);
    while (rc == 0 && (entry = readdir(dir)) != NULL) {
        const char *end = strchr(entry->d_name, '.');
        char *name = path_join("pg_wal", entry->d_name);
        if (end && strcmp(end, ".history") == 0)
            rc = add_file(s, name, e);
        free(name);
    }
    if (dir)
        closedir(dir);
    free(from);
    return rc;
}

static int
here_lives(bool *out, struct source *s, struct err *e)
{
    struct process_list users;
    (void)e;
    bool unknown = process_scan(&users, s->datadir, NULL) < 0;
    *out = unknown || process_postmaster(&users);
    process_list_done(&users);
    return 0;
}

const struct source_kind source_here = {.open = here_open,
                                        .begin = here_begin,
                                        .check = here_check,
                                        .keep = here_keep,
                                        .end = here_end,
                                        .spaces = here_spaces,
                                        .files = here_files,
                                        .lives = here_lives};
