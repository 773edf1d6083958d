#include "inspect.h"

#include "adoption.h"
#include "aside.h"
#include "layout.h"
#include "maker.h"
#include "moonrise/base/err.h"
#include "moonrise/base/io.h"
#include "moonrise/base/path.h"
#include "moonrise/base/str.h"
#include "moonrise/pg/conf.h"
#include "moonrise/pg/pidfile.h"
#include "moonrise/pg/timeline.h"
#include "moonrise/wal/record.h"
#include "order.h"
#include "process.h"
#include "sql.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* For a session that is tried, and again for what it is asked: together well below the time that the
 * watcher gives a host for its word. */
#define TRY_MS 1000

/* What an empty directory may hold: a file system's own, the lock of an order that was refused, who is about
 * to make it, and the socket of a killed server, which `rm -rf *` leaves. */
static bool
counts_as_nothing(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || strcmp(name, "lost+found") == 0 ||
           strcmp(name, "moonrise.lock") == 0 || strcmp(name, "moonrise.made") == 0 ||
           strncmp(name, ".s.PGSQL.", 9) == 0;
}

int
datadir_kind(enum datadir_kind *out, const char *datadir, struct err *e)
{
    DIR *dir = opendir(datadir);
    *out = KIND_MISSING;
    if (!dir)
        return errno == ENOENT ? 0 : err_sys(e, errno, "%s", datadir);
    bool empty = true;
    struct dirent *entry;
    while (empty && (entry = readdir(dir)) != NULL)
        empty = counts_as_nothing(entry->d_name);
    closedir(dir);
    bool version = file_exists(datadir, "PG_VERSION");
    if (empty)
        *out = KIND_EMPTY;
    else if (file_exists(datadir, "moonrise.patch") || file_exists(datadir, "moonrise.init"))
        *out = KIND_HALF_MADE;
    else if (!version)
        *out = KIND_FOREIGN;
    else if (file_exists(datadir, "global/pg_control") ||
             file_exists(datadir, "moonrise.control") ||
             file_exists(datadir, "moonrise.control.moving"))
        *out = KIND_DATADIR;
    else
        *out = KIND_HALF_MADE;
    return 0;
}

const char *
datadir_kind_name(enum datadir_kind kind)
{
    static const char *const names[] = {"missing", "empty", "foreign", "datadir", "half-made"};
    return names[kind];
}

/* A number that only grows while the process works: its processor time and what it has read. */
static int64_t
progress_of(const struct process *p)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/io", p->pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    uint64_t read_chars = 0;
    if (fd >= 0) {
        char buf[256];
        ssize_t n = read(fd, buf, sizeof buf - 1);
        buf[n > 0 ? n : 0] = '\0';
        if (sscanf(buf, "rchar: %" SCNu64, &read_chars) != 1)
            read_chars = 0;
        close(fd);
    }
    return (int64_t)(p->ticks + read_chars / 8192);
}

static void
tell_processes(struct message *m, const struct process_list *list)
{
    message_set_bool(m, "stopped", list->count == 0);
    for (size_t i = 0; i < list->count; i++) {
        const struct process *p = &list->items[i];
        struct message *item = message_new();
        char state[2] = {p->state, '\0'};
        message_set_int(item, "pid", p->pid);
        message_set_text(item, "state", state);
        message_set_text(item, "exe", p->exe);
        message_set_text(item, "title", p->title);
        message_append_take(m, "processes", item);
        if (strstr(p->title, "startup")) {
            struct message *recovery = message_new();
            message_set_int(recovery, "pid", p->pid);
            message_set_text(recovery, "title", p->title);
            message_set_int(recovery, "progress", progress_of(p));
            message_set_take(m, "recovery", recovery);
        }
    }
}

static bool
has_socket_lock(const struct pidfile *pf)
{
    char *name = mem_printf(".s.PGSQL.%d.lock", pf->port);
    bool found = pf->socket_dir[0] && file_exists(pf->socket_dir, name);
    free(name);
    return found;
}

static void
tell_postmaster(struct message *m, const char *datadir, const struct process_list *list)
{
    struct pidfile pf;
    if (pidfile_read(&pf, datadir, NULL) < 0)
        return;
    struct message *post = message_new();
    message_set_int(post, "pid", pf.pid);
    message_set_bool(post, "alive", pf.pid > 0 && process_alive(pf.pid, 0));
    message_set_bool(post, "ours", process_postmaster(list) != NULL);
    message_set_int(post, "port", pf.port);
    message_set_text(post, "socket_dir", pf.socket_dir);
    message_set_text(post, "listen", pf.listen);
    message_set_text(post, "status", pf.status);
    message_set_bool(post, "socket_lock", has_socket_lock(&pf));
    message_set_int(post, "start_s", pf.start_s);
    message_set_take(m, "postmaster", post);
    pidfile_done(&pf);
}

static void
set_lsn(struct message *m, const char *key, lsn_t lsn)
{
    char text[LSN_TEXT_BYTES];
    message_set_text(m, key, lsn_format(text, lsn));
}

void
checkpoint_sum(char sum[HASH_TEXT_BYTES], const uint8_t body[CONTROL_CHECKPOINT_BYTES])
{
    uint8_t copy[CONTROL_CHECKPOINT_BYTES];
    memcpy(copy, body, sizeof copy);
    control_checkpoint_blank(copy);
    hash_text(sum, hash_block(0, copy, sizeof copy));
}

static void
tell_control(struct message *m, const char *datadir)
{
    struct control c;
    struct err why = {0};
    bool aside;
    char sysid[24];
    struct message *out = message_new();
    if (aside_read(&c, &aside, datadir, &why) < 0) {
        if (why.code == ERR_NOTFOUND) {
            message_free(out);
            return;
        }
        message_set_text(out, "error", why.message);
        message_set_take(m, "control", out);
        return;
    }
    snprintf(sysid, sizeof sysid, "%" PRIu64, c.system_identifier);
    message_set_bool(out, "aside", aside);
    message_set_text(out, "sysid", sysid);
    message_set_text(out, "state", control_state_name(c.state));
    message_set_int(out, "timeline", c.timeline);
    char *wal = path_join(datadir, "pg_wal");
    uint32_t newest;
    if (timeline_newest(&newest, wal, NULL) == 0)
        message_set_int(out, "newest_timeline", newest);
    free(wal);
    set_lsn(out, "checkpoint", c.checkpoint_lsn);
    set_lsn(out, "redo", c.redo_lsn);
    char sum[HASH_TEXT_BYTES];
    checkpoint_sum(sum, c.checkpoint_body);
    message_set_text(out, "checkpoint_sum", sum);
    set_lsn(out, "min_recovery", c.min_recovery_lsn);
    message_set_int(out, "min_recovery_timeline", c.min_recovery_timeline);
    message_set_bool(out, "checksums", c.checksum_version != 0);
    message_set_bool(out, "wal_log_hints", c.wal_log_hints);
    message_set_int(out, "block_bytes", c.block_bytes);
    message_set_int(out, "segment_blocks", c.segment_blocks);
    message_set_int(out, "wal_segment_bytes", c.wal_segment_bytes);
    struct wal_record end;
    if (!aside && c.state == CONTROL_SHUTDOWNED && wal_shutdown_end(&end, datadir, NULL) == 0)
        set_lsn(out, "shutdown_end", end.end_lsn);
    message_set_take(m, "control", out);
}

static void
tell_epoch(struct message *m, const struct order *o)
{
    struct epoch ep;
    struct control c;
    bool aside;
    char sysid[24] = "";
    if (epoch_read(&ep, o->datadir, NULL) < 0 || !ep.present)
        return;
    if (aside_read(&c, &aside, o->datadir, NULL) == 0)
        snprintf(sysid, sizeof sysid, "%" PRIu64, c.system_identifier);
    epoch_judge(&ep, sysid, o->dbid);
    struct message *out = message_new();
    message_set_bool(out, "valid", ep.valid);
    message_set_int(out, "epoch", (int64_t)ep.epoch);
    message_set_int(out, "step", ep.step);
    message_set_text(out, "order", ep.order);
    message_set_int(out, "barred", (int64_t)ep.barred);
    message_set_bool(out, "marked", ep.marked);
    message_set_text(out, "reason", ep.reason);
    message_set_text(out, "sysid", ep.sysid);
    message_set_int(out, "dbid", ep.dbid);
    if (!ep.valid)
        message_set_text(out, "why", ep.why);
    message_set_take(m, "epoch", out);
}

/* How far the copy is, as its agent says it now and then, and whether that agent still lives: the process
 * id in its postmaster.pid is negated. */
static void
tell_copying(struct message *patch, const char *datadir)
{
    struct conf c = CONF_INIT;
    struct pidfile pf;
    char *path = path_join(datadir, "moonrise.progress");
    if (conf_read(&c, path, NULL) == 0 && conf_get(&c, "stage") && conf_get(&c, "bytes_done") &&
        conf_get(&c, "bytes_total")) {
        message_set_text(patch, "stage", conf_get(&c, "stage"));
        message_set_int(patch, "bytes_done", strtoll(conf_get(&c, "bytes_done"), NULL, 10));
        message_set_int(patch, "bytes_total", strtoll(conf_get(&c, "bytes_total"), NULL, 10));
    }
    conf_done(&c);
    free(path);
    bool running = false;
    if (pidfile_read(&pf, datadir, NULL) == 0) {
        running = pf.pid < 0 && process_alive(-pf.pid, 0);
        pidfile_done(&pf);
    }
    message_set_bool(patch, "running", running);
}

static void
tell_patch(struct message *m, const char *datadir)
{
    static const char *const keys[] = {"type", "stage", "source", "sysid", "dbid"};
    struct conf c = CONF_INIT;
    char *path = path_join(datadir, "moonrise.patch");
    int rc = conf_read(&c, path, NULL);
    free(path);
    if (rc == ERR_NOTFOUND)
        return;
    struct message *out = message_new();
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        message_set_text(out, keys[i], conf_get(&c, keys[i]) ? conf_get(&c, keys[i]) : "");
    const char *started = conf_get(&c, "started_s");
    message_set_int(out, "started_s", started ? strtoll(started, NULL, 10) : 0);
    tell_copying(out, datadir);
    message_set_take(m, "patch", out);
    conf_done(&c);
}

/* Of a directory that is still to be made: what there is where it will be. */
static void
tell_free(struct order *o)
{
    uint64_t bytes;
    char *place = mem_strdup(o->datadir);
    int rc;
    while ((rc = io_free_bytes(&bytes, place, NULL)) == ERR_NOTFOUND && strcmp(place, "/") != 0) {
        char *parent = path_dir(place);
        free(place);
        place = parent;
    }
    if (rc == 0)
        message_set_int(o->result, "free_bytes", (int64_t)bytes);
    free(place);
}

/* Names of hosts and paths say little about whether two places are one: the machine, as it was booted, and
 * the directory's own number do. */
static void
tell_identity(struct order *o)
{
    struct str boot = STR_INIT;
    struct stat st;
    if (stat(o->datadir, &st) == 0 &&
        io_read_file(&boot, "/proc/sys/kernel/random/boot_id", 4096, NULL) == 0) {
        boot.data[strcspn(boot.data, "\n")] = '\0';
        char *text =
            mem_printf("%s %ju:%ju", boot.data, (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
        message_set_text(o->result, "identity", text);
        free(text);
    }
    str_free(&boot);
}

/* Bytes of the files below a directory, its links not followed. */
static int64_t
tree_bytes(int parent, const char *name, int depth)
{
    int64_t bytes = 0;
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | (depth ? O_NOFOLLOW : 0));
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    struct dirent *entry;
    while (dir && (entry = readdir(dir)) != NULL) {
        struct stat st;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
            (depth == 0 && strcmp(entry->d_name, "pg_wal") == 0) ||
            fstatat(fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0)
            continue;
        if (S_ISDIR(st.st_mode) && depth < 16)
            bytes += tree_bytes(fd, entry->d_name, depth + 1);
        else if (S_ISREG(st.st_mode))
            bytes += st.st_size;
    }
    if (dir)
        closedir(dir);
    else if (fd >= 0)
        close(fd);
    return bytes;
}

/* Where the data lies: pg_wal's directory, the tablespaces, and with `measure` their bytes. */
static void
tell_places(struct order *o)
{
    bool measure = message_bool(o->args, "measure", false);
    int64_t bytes = measure ? tree_bytes(AT_FDCWD, o->datadir, 0) : 0;
    char *wal = order_path(o, "pg_wal"), *spaces = order_path(o, "pg_tblspc"), *real;
    if (path_canonical(&real, wal, NULL) == 0)
        message_set_text(o->result, "wal_dir", real);
    free(real);
    DIR *dir = opendir(spaces);
    struct dirent *entry;
    while (dir && (entry = readdir(dir)) != NULL) {
        char link[4096];
        ssize_t n = readlinkat(dirfd(dir), entry->d_name, link, sizeof link - 1);
        if (n <= 0)
            continue;
        link[n] = '\0';
        struct message *item = message_new();
        message_set_text(item, "oid", entry->d_name);
        message_set_text(item, "path", link);
        message_append_take(o->result, "tablespaces", item);
        bytes += measure ? tree_bytes(AT_FDCWD, link, 0) : 0;
    }
    if (dir)
        closedir(dir);
    free(wal);
    free(spaces);
    if (measure)
        message_set_int(o->result, "data_bytes", bytes);
}

/* Whether it lets a new session in, over its socket: silence elsewhere may be the network's. Whatever it
 * answers shows that it lives. */
static void
tell_serves(struct order *o)
{
    struct sql_place place = {.datadir = o->datadir,
                              .user = o->user,
                              .passfile = o->passfile,
                              .dbname = o->dbname,
                              .name = "moonrise try",
                              .connect_ms = TRY_MS,
                              .statement_ms = TRY_MS};
    struct err why = {0};
    struct db *db;
    int rc = sql_connect(&db, &place, o, &why);
    message_set_bool(o->result, "serves", rc == 0 || rc == ERR_SQL);
    db_close(db);
}

int
op_inspect(struct order *o, struct err *e)
{
    enum datadir_kind kind;
    struct process_list users;
    int rc = datadir_kind(&kind, o->datadir, e);
    if (rc < 0)
        return rc;
    message_set_text(o->result, "kind", datadir_kind_name(kind));
    rc = process_scan(&users, o->datadir, e);
    if (rc == 0 && users.count == 0) {
        /* "Stopped" is the word that a promotion relies on: seen twice, as everywhere. */
        process_list_done(&users);
        rc = process_scan(&users, o->datadir, e);
    }
    if (rc < 0)
        return rc;
    tell_processes(o->result, &users);
    tell_free(o);
    layout_tell(o->result, o->datadir, kind != KIND_DATADIR && kind != KIND_FOREIGN);
    if (kind != KIND_MISSING) {
        tell_identity(o);
        tell_postmaster(o->result, o->datadir, &users);
        if (message_bool(o->args, "try", false))
            tell_serves(o);
        tell_control(o->result, o->datadir);
        tell_epoch(o->result, o);
        tell_patch(o->result, o->datadir);
        adoption_tell(o->result, o->datadir);
        maker_tell(o->result, o->datadir);
        tell_places(o);
        message_set_bool(o->result, "standby_signal", file_exists(o->datadir, "standby.signal"));
        message_set_bool(o->result, "backup_label", file_exists(o->datadir, "backup_label"));
    }
    process_list_done(&users);
    return 0;
}
