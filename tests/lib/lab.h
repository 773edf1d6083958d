/*
 * A laboratory for units of the agent: a throwaway directory with instances made, started and ended by the
 * agent's own operations, called in this process. Included by units; call lab_user first in main.
 */
#ifndef MOONRISE_TESTS_LAB_H
#define MOONRISE_TESTS_LAB_H

#include "moment.h"
#include "moonrise/agent/agent.h"
#include "moonrise/base/err.h"
#include "moonrise/loop/loop.h"
#include "moonrise/wire/message.h"
#include "tmpdir.h"

#include <grp.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <pwd.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>

struct lab {
    char *dir;
    char *bin;
    char *user;
    int64_t epoch; /* of the next order; each takes its own unless its fields say otherwise */
};

/* One instance: DIR/name, with a socket of that port in its own directory. */
struct inst {
    const char *name;
    int port, dbid, content;
};

/* PostgreSQL refuses root: goes on as MOONRISE_USER, else nobody. Executed anew, so that /proc stays ours. */
static inline void
lab_user(char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    if (geteuid() != 0)
        return;
    const char *name = getenv("MOONRISE_USER");
    struct passwd *pw = getpwnam(name && *name ? name : "nobody");
    unsetenv("TMPDIR");
    if (!pw || setgroups(0, NULL) != 0 || setgid(pw->pw_gid) != 0 || setuid(pw->pw_uid) != 0 ||
        chdir("/") != 0)
        _exit(99);
    execv("/proc/self/exe", argv);
    _exit(98);
}

static inline void
lab_open(struct lab *lab)
{
    struct passwd *pw = getpwuid(geteuid());
    lab->dir = tmpdir_make();
    lab->bin = tmpdir_shell(lab->dir, "printf %s $PG");
    lab->user = mem_strdup(pw->pw_name);
    lab->epoch = 1;
}

/* Ends what still runs in the directory, by the ids in its own files, and removes it. */
static inline void
lab_close(struct lab *lab)
{
    tmpdir_do(lab->dir,
              "for d in $DIR/*/; do p=$(head -n 1 $d/postmaster.pid 2>/dev/null || true); "
              "case $p in ''|-*) ;; *) [ \"$(readlink /proc/$p/cwd)/\" = \"$d\" ] && "
              "kill -CONT $p && kill -QUIT $p && timeout 10 tail --pid=$p -f /dev/null;; esac; "
              "done; true");
    free(lab->bin);
    free(lab->user);
    tmpdir_remove(lab->dir);
}

/* The arguments of a call: the instance, the next epoch, and what else is said; `more` may say it otherwise. */
static inline char *
lab_json(struct lab *lab, const struct inst *i, const char *more)
{
    struct str text = STR_INIT;
    str_printf(&text, "{\"datadir\":\"%s/%s\",\"bin\":\"%s\",\"user\":\"%s\",\"content\":%d",
               lab->dir, i->name, lab->bin, lab->user, i->content);
    const struct {
        const char *key;
        int64_t value;
    } own[] = {{"dbid", i->dbid}, {"epoch", lab->epoch++}, {"step", 1}, {"port", i->port}};
    for (size_t n = 0; n < sizeof own / sizeof *own; n++) {
        char quoted[16];
        snprintf(quoted, sizeof quoted, "\"%s\":", own[n].key);
        if (strcmp(own[n].key, "port") == 0 || !strstr(more, quoted))
            str_printf(&text, ",%s%" PRId64, quoted, own[n].value);
    }
    str_printf(&text, "%s%s}", *more ? "," : "", more);
    return str_take(&text);
}

/* One call: of which instance, which operation; `more` are further fields of its arguments. */
struct lab_call {
    const struct inst *inst;
    const char *op, *more;
};

/* Carries out a call. What came of it goes to *out; free it with message_free. */
static inline int
lab_try(struct message **out, struct lab *lab, const struct lab_call *c, struct err *e)
{
    struct message *args;
    char *json = lab_json(lab, c->inst, c->more);
    if (message_parse(&args, json, strlen(json), e) < 0)
        fail_msg("%s: %s", json, e->message);
    struct agent_call call = {.op = c->op, .args = args};
    int rc = agent_call(out, &call, e);
    message_free(args);
    free(json);
    return rc;
}

/* The same, and it must work. Free with message_free. */
static inline struct message *
lab_ok(struct lab *lab, const struct inst *i, const char *op, const char *more)
{
    struct message *out;
    struct err e = {0};
    if (lab_try(&out, lab, &(struct lab_call){i, op, more}, &e) < 0)
        fail_msg("%s of %s: %s (%s)", op, i->name, e.message, e.hint);
    return out;
}

static inline void
lab_do(struct lab *lab, const struct inst *i, const char *op, const char *more)
{
    message_free(lab_ok(lab, i, op, more));
}

/* The same, and it must fail with this code. */
static inline void
lab_refused(struct lab *lab, const struct inst *i, const char *op, const char *more, int code)
{
    struct message *out;
    struct err e = {0};
    int rc = lab_try(&out, lab, &(struct lab_call){i, op, more}, &e);
    if (rc == 0)
        fail_msg("%s of %s was carried out", op, i->name);
    if (rc != code)
        fail_msg("%s of %s: %s instead of %s: %s", op, i->name, err_name(rc), err_name(code),
                 e.message);
}

/* The output of psql -At as the superuser. Free with free(). */
static inline char *
lab_sql(struct lab *lab, const struct inst *i, const char *sql)
{
    char *command = mem_printf(
        "$PG/psql -h $DIR/%s -p %d -U %s -d postgres -AtXq -v ON_ERROR_STOP=1 <<'END'\n%s\nEND",
        i->name, i->port, lab->user, sql);
    char *out = tmpdir_shell(lab->dir, command);
    free(command);
    size_t len = strlen(out);
    if (len > 0 && out[len - 1] == '\n')
        out[len - 1] = '\0';
    return out;
}

static inline void
lab_sql_is(struct lab *lab, const struct inst *i, const char *sql, const char *want)
{
    char *out = lab_sql(lab, i, sql);
    assert_string_equal(out, want);
    free(out);
}

/* Polls a query until it says what is wanted. */
static inline void
lab_sql_until(struct lab *lab, const struct inst *i, const char *sql, const char *want)
{
    int64_t until = clock_ms() + 20000;
    char *out = NULL;
    do {
        free(out);
        out = lab_sql(lab, i, sql);
    } while (strcmp(out, want) != 0 && clock_ms() < until);
    assert_string_equal(out, want);
    free(out);
}

static inline void
lab_pause_ms(int ms)
{
    moment_pass(ms * 1000LL);
}

static inline bool
lab_has(struct lab *lab, const struct inst *i, const char *name)
{
    char *path = mem_printf("%s/%s/%s", lab->dir, i->name, name);
    bool there = access(path, F_OK) == 0;
    free(path);
    return there;
}

/* A TCP port that nobody listens on now. */
static inline int
lab_free_port(void)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, len), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
    close(fd);
    return ntohs(at.sin_port);
}

/* The process id in postmaster.pid. */
static inline int
lab_postmaster(struct lab *lab, const struct inst *i)
{
    char *command = mem_printf("head -n 1 $DIR/%s/postmaster.pid", i->name);
    char *out = tmpdir_shell(lab->dir, command);
    int pid = atoi(out);
    free(command);
    free(out);
    assert_true(pid != 0);
    return pid;
}

/* initdb, adopt and start of a primary. */
static inline void
lab_primary(struct lab *lab, const struct inst *i)
{
    char *more =
        mem_printf("\"maker\":\"lab\",\"superuser\":\"%s\",\"hba\":[\"local all,replication %s "
                   "peer\"],\"settings\":{"
                   "\"port\":%d,\"listen_addresses\":\"\",\"unix_socket_directories\":\"%s/%s\","
                   "\"shared_buffers\":\"16MB\",\"fsync\":\"off\",\"max_wal_senders\":8,"
                   "\"wal_retrieve_retry_interval\":\"100ms\"}",
                   lab->user, lab->user, i->port, lab->dir, i->name);
    lab_do(lab, i, "initdb", more);
    free(more);
    lab_do(lab, i, "adopt", "");
    lab_do(lab, i, "start", "\"listen\":\"\"");
}

/* The fields of a recovery of mirror `m` from `p`. Free with free(). */
static inline char *
lab_recover_args(struct lab *lab, const struct inst *p, const struct inst *m, const char *type)
{
    return mem_printf(
        "\"type\":\"%s\",\"slot\":\"mr_slot_%d\",\"listen\":\"\",\"source\":{\"datadir\":"
        "\"%s/%s\",\"port\":%d},\"settings\":{\"port\":%d,\"unix_socket_directories\":"
        "\"%s/%s\",\"primary_conninfo\":\"host=%s/%s port=%d user=%s "
        "application_name=mr_%d_%d\",\"primary_slot_name\":\"mr_slot_%d\","
        "\"synchronous_standby_names\":false}",
        type, m->dbid, lab->dir, p->name, p->port, m->port, lab->dir, m->name, lab->dir, p->name,
        p->port, lab->user, m->content, m->dbid, m->dbid);
}

static inline void
lab_mirror(struct lab *lab, const struct inst *p, const struct inst *m, const char *type)
{
    char *args = lab_recover_args(lab, p, m, type);
    struct message *out = lab_ok(lab, m, "recover", args);
    assert_true(message_bool(out, "streaming", false));
    message_free(out);
    free(args);
}

/* For a setup: a lab whose primary runs is the state of the tests. lab_teardown ends it. */
static inline struct lab *
lab_setup(void **state, const struct inst *primary)
{
    struct lab *lab = mem_alloc(sizeof *lab);
    lab_open(lab);
    *state = lab;
    lab_primary(lab, primary);
    return lab;
}

static inline int
lab_teardown(void **state)
{
    lab_close(*state);
    free(*state);
    return 0;
}

#endif
