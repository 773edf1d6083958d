#include "server.h"

#include "layout.h"
#include "moonrise/base/err.h"
#include "moonrise/base/io.h"
#include "moonrise/base/str.h"
#include "moonrise/loop/loop.h"
#include "moonrise/pg/pidfile.h"
#include "process.h"
#include "settings.h"
#include "spawn.h"
#include "sql.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define POLL_MS        3
#define OWN_LOCK_MS    10000 /* until the server has written its postmaster.pid */
#define STREAM_WAIT_MS 10000
#define TRY_MS         10000
#define LOG_TAIL_BYTES 2048

/* The command line, which owns its texts. */
struct command {
    char **argv;
    size_t count;
};

static void
command_add(struct command *c, char *text_take)
{
    c->argv = mem_realloc(c->argv, (c->count + 2) * sizeof *c->argv);
    c->argv[c->count++] = text_take;
    c->argv[c->count] = NULL;
}

static void
command_setting(void *arg, const char *name, const char *text)
{
    struct command *c = arg;
    command_add(c, mem_strdup("-c"));
    command_add(c, mem_printf("%s=%s", name, text));
}

static void
command_done(struct command *c)
{
    for (size_t i = 0; i < c->count; i++)
        free(c->argv[i]);
    free(c->argv);
}

/* A configuration elsewhere may name another data directory by now: that one is not ours to start. */
static void
command_make(struct command *c, const struct order *o, const struct layout *l)
{
    *c = (struct command){0};
    command_add(c, mem_printf("%s/postgres", o->bin));
    command_add(c, mem_strdup("-D"));
    command_add(c, mem_strdup(o->datadir));
    if (l->outside) {
        command_setting(c, "config_file", l->config_file);
        command_setting(c, "data_directory", o->datadir);
    }
    const char *listen = message_text(o->args, "listen", NULL);
    if (listen)
        command_setting(c, "listen_addresses", listen);
    if (strcmp(o->call->op, "start") == 0)
        message_each(o->args, "settings", command_setting, c);
}

/* Opens DATADIR/log/postgresql.log for appending; *from is its end. */
static int
open_log(int *fd, int64_t *from, const struct order *o, struct err *e)
{
    char *dir = order_path(o, "log"), *path = order_path(o, "log/postgresql.log");
    struct stat st;
    int rc = io_make_dirs(dir, 0700, e);
    if (rc == 0) {
        *fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
        if (*fd < 0 || fstat(*fd, &st) != 0)
            rc = err_sys(e, errno, "%s", path);
        else
            *from = st.st_size;
    }
    free(dir);
    free(path);
    return rc;
}

int
server_failed(const struct order *o, int64_t log_from, struct err *e)
{
    char buf[LOG_TAIL_BYTES + 1];
    char *path = order_path(o, "log/postgresql.log");
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    ssize_t n = 0;
    if (fd >= 0 && fstat(fd, &st) == 0) {
        int64_t from = st.st_size - LOG_TAIL_BYTES;
        n = io_pread_full(fd, buf, LOG_TAIL_BYTES, (uint64_t)(from > log_from ? from : log_from),
                          NULL);
    }
    if (fd >= 0)
        close(fd);
    free(path);
    buf[n > 0 ? n : 0] = '\0';
    /* The reason is a FATAL or PANIC line; what follows it is housekeeping. */
    char *why = strstr(buf, "PANIC:");
    why = why ? why : strstr(buf, "FATAL:");
    why = why ? why : buf;
    why[strcspn(why, "\n")] = '\0';
    return err_set(e, ERR_CHILD, "the server in %s did not start: %.400s", o->datadir,
                   *why ? why : "nothing in its log");
}

int
server_refuse(const struct order *o, struct err *e)
{
    if (o->last.valid && o->last.marked) {
        err_set(e, ERR_REFUSED, "%s is marked: %s", o->datadir,
                o->last.reason[0] ? o->last.reason : "it was replaced");
        return err_hint(e, "it may be started after a recovery: moonrise recoverseg");
    }
    if (file_exists(o->datadir, "moonrise.patch") || file_exists(o->datadir, "moonrise.init") ||
        !file_exists(o->datadir, "global/pg_control")) {
        err_set(e, ERR_REFUSED, "%s is half-made", o->datadir);
        return err_hint(e, "run the recovery again: moonrise recoverseg");
    }
    return 0;
}

/* The socket's lock file of a server that was killed: PostgreSQL takes a zombie, or whoever has its number
 * now, for a live owner. Its second line is the data directory; if that is this one, which is proven
 * stopped, nobody needs it. */
static void
remove_socket_lock(char *path_take, const char *datadir, const char *alias)
{
    struct str text = STR_INIT;
    char *line = io_read_file(&text, path_take, 8192, NULL) == 0 ? strchr(text.data, '\n') : NULL;
    if (line) {
        line[1 + strcspn(line + 1, "\n")] = '\0';
        if (strcmp(line + 1, datadir) == 0 || (alias && strcmp(line + 1, alias) == 0))
            unlink(path_take);
    }
    str_free(&text);
    free(path_take);
}

/* Sockets are in the data directory unless its path is too long; postmaster.pid may be gone. */
static void
remove_own_socket_locks(const char *datadir)
{
    DIR *dir = opendir(datadir);
    struct dirent *entry;
    while (dir && (entry = readdir(dir)) != NULL) {
        size_t len = strlen(entry->d_name);
        if (strncmp(entry->d_name, ".s.PGSQL.", 9) == 0 && len > 5 &&
            strcmp(entry->d_name + len - 5, ".lock") == 0)
            remove_socket_lock(mem_printf("%s/%s", datadir, entry->d_name), datadir, NULL);
    }
    if (dir)
        closedir(dir);
}

int
server_remove_pidfile(const char *datadir, struct err *e)
{
    struct pidfile pf;
    remove_own_socket_locks(datadir);
    int rc = pidfile_read(&pf, datadir, e);
    if (rc == ERR_NOTFOUND)
        return 0;
    if (rc == 0) {
        if (pf.port > 0 && pf.socket_dir[0] == '/')
            remove_socket_lock(mem_printf("%s/.s.PGSQL.%d.lock", pf.socket_dir, pf.port), datadir,
                               pf.datadir);
        pidfile_done(&pf);
    } else if (rc != ERR_FORMAT) {
        return rc;
    }
    /* Nobody maps its segment and nobody works here, so whoever has that number now is a stranger. */
    char *path = mem_printf("%s/postmaster.pid", datadir);
    rc = io_unlink_durable(path, e);
    free(path);
    return rc == ERR_NOTFOUND ? 0 : rc;
}

/* What postmaster.pid says of the server `pid`: 1 once it accepts, 0 not yet; *locked once it is its own. */
static int
server_state(const struct order *o, int pid, bool *locked)
{
    struct pidfile pf;
    if (pidfile_read(&pf, o->datadir, NULL) != 0)
        return 0;
    bool own = pf.pid == pid;
    bool ready = own && (strcmp(pf.status, "ready") == 0 || strcmp(pf.status, "standby") == 0);
    *locked = *locked || own;
    pidfile_done(&pf);
    return ready;
}

static int
ask_watch(const struct server_wait *wait, struct err *e)
{
    return wait->watch ? wait->watch(wait->watch_arg, e) : 0;
}

/* Waits until the server accepts; lets go of the epoch lock as soon as the server has its own. */
static int
await_accepts(struct order *o, const struct server *s, const struct server_wait *wait,
              int64_t log_from, struct err *e)
{
    bool locked = false;
    uint64_t start = process_start(s->pid);
    int64_t own_lock = clock_ms() + OWN_LOCK_MS;
    for (;;) {
        if (server_state(o, s->pid, &locked))
            break;
        if (locked)
            order_unlock(o);
        if (start == 0 || !process_alive(s->pid, start))
            return server_failed(o, log_from, e);
        if (clock_ms() > wait->deadline_ms || (!locked && clock_ms() > own_lock))
            return err_set(e, ERR_TIMEOUT,
                           "the server in %s (process %d) does not accept sessions yet", o->datadir,
                           s->pid);
        int rc = ask_watch(wait, e);
        if (rc == 0)
            rc = order_pause(o, POLL_MS, e);
        if (rc < 0)
            return rc;
    }
    order_unlock(o);
    return 0;
}

/* Whether the standby streams within the time; a primary that is away is no failure of a start. */
static int
await_streams(bool *out, const struct order *o, const struct server_wait *wait, struct err *e)
{
    static const char sql[] =
        "select status = 'streaming' from pg_stat_wal_receiver where coalesce(status, '') <> ''";
    struct db *db = NULL;
    bool streams = false;
    int rc = 0;
    int64_t until_ms = clock_ms() + wait->stream_ms;
    if (until_ms > wait->deadline_ms)
        until_ms = wait->deadline_ms;
    struct sql_place place = {.datadir = o->datadir,
                              .user = o->user,
                              .passfile = o->passfile,
                              .dbname = o->dbname,
                              .name = "moonrise start",
                              .statement_ms = SQL_TIMEOUT_MS};
    while (rc == 0 && !streams && clock_ms() < until_ms && !order_cancelled(o)) {
        if (!db && sql_connect(&db, &place, o, NULL) < 0)
            db = NULL;
        else if (sql_bool(&streams, db, sql, clock_ms() + SQL_TIMEOUT_MS, NULL) < 0)
            break;
        if (!streams && (rc = ask_watch(wait, e)) == 0)
            order_pause(o, POLL_MS * 2, NULL);
    }
    db_close(db);
    *out = streams;
    return rc;
}

static int
spawn(int *pid, const struct order *o, int log_fd, struct err *e)
{
    struct layout l;
    int rc = layout_read(&l, o->datadir, e);
    if (rc == 0) {
        struct command c;
        command_make(&c, o, &l);
        rc = spawn_server(pid, (const char *const *)c.argv, o->datadir, log_fd, e);
        command_done(&c);
    }
    layout_done(&l);
    return rc;
}

/* Starts it, unless it runs. */
static int
launch(struct server *s, struct order *o, int64_t *log_from, struct err *e)
{
    struct process_list users;
    int rc = process_scan(&users, o->datadir, e);
    if (rc < 0)
        return rc;
    const struct process *p = process_postmaster(&users);
    s->already = p != NULL;
    s->pid = p ? p->pid : 0;
    process_list_done(&users);
    if (s->already)
        return 0;
    rc = process_prove_stopped(o->datadir, e);
    if (rc == 0)
        rc = server_remove_pidfile(o->datadir, e);
    if (rc == 0)
        rc = settings_socket_dir(o->datadir, e);
    int log_fd = -1;
    if (rc == 0)
        rc = open_log(&log_fd, log_from, o, e);
    if (rc == 0)
        rc = spawn(&s->pid, o, log_fd, e);
    if (log_fd >= 0)
        close(log_fd);
    return rc;
}

int
server_start(struct server *out, struct order *o, const struct server_wait *wait, struct err *e)
{
    int64_t log_from = 0;
    *out = (struct server){0};
    int rc = launch(out, o, &log_from, e);
    if (rc == 0)
        rc = await_accepts(o, out, wait, log_from, e);
    if (rc < 0)
        return rc;
    out->in_recovery = file_exists(o->datadir, "standby.signal");
    return out->in_recovery ? await_streams(&out->streaming, o, wait, e) : 0;
}

/* The server says one setting, for which it reads all of its files; it does so also beside one that runs. */
int
op_try(struct order *o, struct err *e)
{
    struct layout l;
    if (o->bin[0] != '/')
        return err_set(e, ERR_ARGUMENT, "bin is no absolute path");
    int rc = layout_read(&l, o->datadir, e);
    if (rc == 0) {
        struct command c;
        struct str output = STR_INIT;
        command_make(&c, o, &l);
        command_add(&c, mem_strdup("-C"));
        command_add(&c, mem_strdup("port"));
        struct spawn s = {.argv = (const char *const *)c.argv,
                          .cwd = o->datadir,
                          .deadline_ms = order_deadline(o, "wait_ms", TRY_MS),
                          .cancel = o->call->cancel};
        rc = spawn_run(&output, &s, e);
        str_free(&output);
        command_done(&c);
    }
    layout_done(&l);
    return rc;
}

/* A server that somebody else started from the files alone listens nowhere: it is started anew. */
static int
end_unreachable(struct order *o, struct err *e)
{
    const char *listen = message_text(o->args, "listen", "");
    struct pidfile pf;
    if (!listen[0] || pidfile_read(&pf, o->datadir, NULL) != 0)
        return 0;
    bool unreachable = pf.listen[0] == '\0' &&
                       (strcmp(pf.status, "ready") == 0 || strcmp(pf.status, "standby") == 0);
    uint64_t start = process_start(pf.pid);
    pidfile_done(&pf);
    int pid, rc;
    if (!unreachable ||
        (rc = process_signal_postmaster(o->datadir, SIGINT, &pid, e)) == ERR_NOTFOUND)
        return 0;
    int64_t deadline = clock_ms() + 10000;
    while (rc == 0 && process_alive(pid, start) && clock_ms() < deadline)
        rc = order_pause(o, POLL_MS, e);
    if (rc == 0)
        rc = process_kill_all(o->datadir, NULL, clock_ms() + 5000, e);
    return rc;
}

int
op_start(struct order *o, struct err *e)
{
    struct server s;
    struct server_wait wait = {.deadline_ms = order_deadline(o, "wait_ms", 60000),
                               .stream_ms = STREAM_WAIT_MS};
    if (o->bin[0] != '/')
        return err_set(e, ERR_ARGUMENT, "bin is no absolute path");
    int rc = server_refuse(o, e);
    if (rc == 0)
        rc = end_unreachable(o, e);
    if (rc == 0)
        rc = server_start(&s, o, &wait, e);
    if (rc < 0)
        return rc;
    message_set_int(o->result, "pid", s.pid);
    message_set_bool(o->result, "in_recovery", s.in_recovery);
    message_set_bool(o->result, "streaming", s.streaming);
    message_set_bool(o->result, "already", s.already);
    return 0;
}
