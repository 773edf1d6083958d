/*
 * A real PostgreSQL server for a unit: made in a throwaway directory on a free port, run as a child,
 * removed at the end. Included by units, after cmocka.h. As root it becomes $MOONRISE_USER or nobody,
 * since PostgreSQL refuses root.
 *
 * The superuser is `tester`; the socket (in the data directory) trusts, 127.0.0.1 wants the password
 * "secret". The server dies with the test.
 */
#ifndef MOONRISE_TESTS_PG_H
#define MOONRISE_TESTS_PG_H

#include "moment.h"
#include "tmpdir.h"
#include "until.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"
#include "moonrise/conn/conn.h"
#include "moonrise/conn/db.h"
#include "moonrise/conn/result.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fcntl.h>
#include <glob.h>
#include <grp.h>
#include <netinet/in.h>
#include <pwd.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define PG_DEADLINE_MS 60000

struct pg {
    char *dir;      /* the data directory, and where the socket is */
    char bin[200];  /* where the programs are */
    char port[12];  /* text, as libpq wants it */
    char *settings; /* more of postgresql.conf; may be NULL */
    pid_t pid;      /* the postmaster, 0 when it does not run */
};

static inline void
pg_find_bin(struct pg *pg)
{
    glob_t found;
    if (glob("/usr/lib/postgresql/*/bin/postgres", 0, NULL, &found) != 0)
        fail_msg("no PostgreSQL under /usr/lib/postgresql");
    const char *last = found.gl_pathv[found.gl_pathc - 1];
    snprintf(pg->bin, sizeof(pg->bin), "%.*s", (int)(strrchr(last, '/') - last), last);
    globfree(&found);
}

static inline const struct passwd *
pg_user(void)
{
    const char *name = getenv("MOONRISE_USER");
    const struct passwd *user = getpwnam(name ? name : "nobody");
    assert_non_null(user);
    return user;
}

/* In the child: another user, no environment of ours, output to a file. */
static inline void
pg_exec(const char *log, char *const *argv)
{
    char *env[] = {(char *)"LC_ALL=C.UTF-8", (char *)"PATH=/usr/bin:/bin", (char *)"TZ=UTC",
                   getenv("LANGUAGE") ? mem_printf("LANGUAGE=%s", getenv("LANGUAGE")) : NULL, NULL};
    const struct passwd *user = geteuid() == 0 ? pg_user() : NULL;
    if (user && (setgroups(0, NULL) || setgid(user->pw_gid) || setuid(user->pw_uid)))
        _exit(126);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* which ends a stopped one, too */
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (fd < 0 || dup2(null, 0) < 0 || dup2(fd, 1) < 0 || dup2(fd, 2) < 0 || chdir("/") < 0)
        _exit(126);
    execve(argv[0], argv, env);
    _exit(127);
}

static inline pid_t
pg_run(const char *log, char *const *argv)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        pg_exec(log, argv);
    return pid;
}

static inline void
pg_free_port(char *out, size_t len)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(a);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &size), 0);
    snprintf(out, len, "%d", ntohs(a.sin_port));
    close(fd);
}

static inline void
pg_write(const struct pg *pg, const char *name, const char *mode, const char *text)
{
    char *path = mem_printf("%s/%s", pg->dir, name);
    FILE *f = fopen(path, mode);
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    free(path);
}

/* Makes a data directory. */
static inline void
pg_make(struct pg *pg, const char *settings)
{
    int status;
    memset(pg, 0, sizeof(*pg));
    pg_find_bin(pg);
    pg_free_port(pg->port, sizeof(pg->port));
    pg->dir = tmpdir_make();
    char *log = mem_printf("%s.log", pg->dir);
    char *password = mem_printf("%s.pw", pg->dir);
    FILE *f = fopen(password, "w");
    assert_non_null(f);
    fputs("secret\n", f);
    fclose(f);
    if (geteuid() == 0) {
        assert_int_equal(chown(pg->dir, pg_user()->pw_uid, pg_user()->pw_gid), 0);
        assert_int_equal(chown(password, pg_user()->pw_uid, pg_user()->pw_gid), 0);
        close(open(log, O_WRONLY | O_CREAT | O_CLOEXEC, 0666));
        assert_int_equal(chown(log, pg_user()->pw_uid, pg_user()->pw_gid), 0);
    }
    char *program = mem_printf("%s/initdb", pg->bin);
    char *pwfile = mem_printf("--pwfile=%s", password);
    char *argv[] = {program,
                    (char *)"-D",
                    pg->dir,
                    (char *)"-U",
                    (char *)"tester",
                    (char *)"--no-sync",
                    (char *)"-A",
                    (char *)"trust",
                    (char *)"--auth-host=scram-sha-256",
                    (char *)"-E",
                    (char *)"UTF8",
                    (char *)"--locale=C.UTF-8",
                    pwfile,
                    NULL};
    assert_int_equal(waitpid(pg_run(log, argv), &status, 0) > 0 ? status : -1, 0);
    char *conf = mem_printf("port = %s\nlisten_addresses = '127.0.0.1'\n"
                            "unix_socket_directories = '%s'\nfsync = off\nshared_buffers = 16MB\n"
                            "max_connections = 20\n%s\n",
                            pg->port, pg->dir, settings ? settings : "");
    pg_write(pg, "postgresql.conf", "a", conf);
    unlink(password);
    free(log);
    free(password);
    free(program);
    free(pwfile);
    free(conf);
}

/* Starts the postmaster and returns at once; `more` is one option of its command line, or NULL. */
static inline void
pg_launch(struct pg *pg, const char *more)
{
    char *log = mem_printf("%s.log", pg->dir);
    char *program = mem_printf("%s/postgres", pg->bin);
    char *argv[] = {program, (char *)"-D", pg->dir, (char *)more, NULL};
    assert_int_equal(pg->pid, 0);
    pg->pid = pg_run(log, argv);
    free(log);
    free(program);
}

/* Opens a session through the socket. */
static inline int
pg_connect(struct db **out, const struct pg *pg, struct err *e)
{
    const char *keywords[] = {"host", "port", "user", "dbname", NULL};
    const char *values[] = {pg->dir, pg->port, "tester", "postgres", NULL};
    struct conn_params params = {keywords, values};
    return db_open(out, &params, clock_ms() + 5000, NULL, e);
}

/* Waits until a session can be had. */
static inline void
pg_wait_ready(const struct pg *pg)
{
    struct err e;
    struct db *d;
    int64_t deadline = clock_ms() + PG_DEADLINE_MS;
    while (pg_connect(&d, pg, &e) != 0) {
        if (clock_ms() > deadline || waitpid(pg->pid, NULL, WNOHANG) != 0)
            fail_msg("%s does not start: %s (see %s.log)", pg->dir, e.message, pg->dir);
        moment_pass(10000);
    }
    db_close(d);
}

static inline void
pg_start(struct pg *pg)
{
    pg_launch(pg, NULL);
    pg_wait_ready(pg);
}

/* Runs one statement in a session of its own; the first field of the result, to be freed, or NULL. */
static inline char *
pg_sql(const struct pg *pg, const char *sql)
{
    struct err e;
    struct db *d;
    const struct result *r = NULL;
    struct statement st = {.sql = sql};
    if (pg_connect(&d, pg, &e) != 0 || db_query(d, &r, &st, clock_ms() + 20000, &e) != 0)
        fail_msg("%s: %s", sql, e.message);
    const char *text = result_rows(r) > 0 ? result_get(r, 0, 0) : NULL;
    char *out = text ? mem_strdup(text) : NULL;
    db_close(d);
    return out;
}

/* Signals the postmaster; SIGKILL, SIGQUIT, SIGINT and SIGTERM are waited for. */
static inline void
pg_signal(struct pg *pg, int signum)
{
    assert_true(pg->pid > 0);
    kill(pg->pid, signum);
    if (signum == SIGSTOP || signum == SIGCONT || signum == SIGHUP)
        return;
    assert_int_equal(waitpid(pg->pid, NULL, 0), pg->pid);
    pg->pid = 0;
}

/* Stops or continues the postmaster and all its children. */
static inline void
pg_signal_all(const struct pg *pg, int signum)
{
    DIR *dir = opendir("/proc");
    struct dirent *d;
    assert_non_null(dir);
    while ((d = readdir(dir)) != NULL) {
        char path[300], line[512];
        int pid = atoi(d->d_name), ppid = 0;
        snprintf(path, sizeof(path), "/proc/%s/stat", d->d_name);
        FILE *f = pid ? fopen(path, "r") : NULL;
        const char *rest = f && fgets(line, sizeof(line), f) ? strrchr(line, ')') : NULL;
        if (rest && sscanf(rest, ") %*c %d", &ppid) == 1 && (pid == pg->pid || ppid == pg->pid))
            kill(pid, signum);
        if (f)
            fclose(f);
    }
    closedir(dir);
}

/* Stops what runs and removes the directory. */
static inline void
pg_remove(struct pg *pg)
{
    if (pg->pid > 0) {
        pg_signal_all(pg, SIGCONT);
        pg_signal(pg, SIGQUIT);
    }
    tmpdir_do(pg->dir, "rm -f \"$DIR.log\"");
    tmpdir_remove(pg->dir);
    pg->dir = NULL;
}

/* For a group's setup: a server that runs is its state. pg_teardown ends it. */
static inline int
pg_setup(void **state, struct pg *pg, const char *settings)
{
    conn_clear_environment();
    pg_make(pg, settings);
    pg_start(pg);
    *state = pg;
    return 0;
}

static inline int
pg_teardown(void **state)
{
    pg_remove(*state);
    return 0;
}

#endif
