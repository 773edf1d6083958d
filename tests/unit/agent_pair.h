/*
 * A primary and its mirror in a laboratory: somebody who writes meanwhile, a recovery in a process of its own,
 * and what holds of the two after it. Included by units; call lab_user first in main.
 */
#ifndef AGENT_PAIR_H
#define AGENT_PAIR_H

#include "../lib/lab.h"

#include <sys/wait.h>

/* What pair_recovered says when what a recovery has told was not right; no ERR_*. */
#define PAIR_WRONG (-100)

static const struct inst prim = {.name = "p", .port = 6001, .dbid = 2, .content = 0};
static const struct inst mirr = {.name = "m", .port = 6002, .dbid = 3, .content = 0};

/* A recovery: its arguments, the most bytes a second that it may copy (0 for as many as it can), and who judges
 * what it has told in the end (NULL for nobody). */
struct pair_recovery {
    const char *args;
    int max_rate;
    bool (*is_right)(const struct message *told);
};

/* For a setup: the primary runs, with amcheck and pgbench's tables of this scale; lab_teardown ends it. */
static inline struct lab *
pair_setup(void **state, int scale)
{
    struct lab *lab = lab_setup(state, &prim);
    char *command = mem_printf("$PG/pgbench -h $DIR/p -p 6001 -i -s %d -q postgres", scale);
    tmpdir_do(lab->dir, command);
    free(command);
    lab_sql_is(lab, &prim, "create extension amcheck", "");
    return lab;
}

/* How much WAL the primary's slots may hold back. */
static inline void
pair_bound_slots(struct lab *lab, int mb)
{
    char *sql = mem_printf("alter system set max_slot_wal_keep_size = '%dMB'", mb);
    lab_sql_is(lab, &prim, sql, "");
    lab_sql_is(lab, &prim, "select pg_reload_conf()", "t");
    free(sql);
}

/* A writer in the background, pgbench with these options: its process id. */
static inline int
pair_writer(struct lab *lab, const char *options)
{
    char *command = mem_printf("($PG/pgbench -h $DIR/p -p 6001 -n -T 600 %s postgres "
                               ">/dev/null 2>&1 & echo $!) </dev/null",
                               options);
    char *text = tmpdir_shell(lab->dir, command);
    int pid = atoi(text);
    free(text);
    free(command);
    return pid;
}

static inline void
pair_end_writer(struct lab *lab, int pid)
{
    kill(pid, SIGKILL);
    lab_sql_until(lab, &prim,
                  "select count(*) from pg_stat_activity where application_name = 'pgbench'", "0");
}

/* Begins a recovery of the mirror in a child process. */
static inline pid_t
pair_recover(struct lab *lab, const struct pair_recovery *r)
{
    pid_t pid = fork();
    if (pid == 0) {
        struct message *told;
        struct err e = {0};
        char *slow = mem_printf("%s,\"max_rate\":%d", r->args, r->max_rate);
        const char *args = r->max_rate > 0 ? slow : r->args;
        int rc = lab_try(&told, lab, &(struct lab_call){&mirr, "recover", args}, &e);
        if (rc < 0)
            fprintf(stderr, "recover: %s (%s)\n", e.message, e.hint);
        else if (r->is_right && !r->is_right(told))
            rc = PAIR_WRONG;
        _exit(-rc);
    }
    lab->epoch++; /* the child has its own copy of it */
    return pid;
}

/* How a recovery has ended whose process has: 0, ERR_* or PAIR_WRONG. */
static inline int
pair_outcome(int status)
{
    assert_true(WIFEXITED(status));
    return -WEXITSTATUS(status);
}

/* The same, once it has. */
static inline int
pair_recovered(pid_t pid)
{
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return pair_outcome(status);
}

/* Until the WAL that is written meanwhile is received beside the slot. */
static inline void
pair_await_carrying(struct lab *lab)
{
    lab_sql_until(lab, &prim,
                  "select count(*) from pg_stat_replication where state = 'streaming' "
                  "and application_name = 'moonrise carry 3'",
                  "1");
}

/* Both answer the query alike, and tables, indexes and checksums of the mirror are sound. */
static inline void
pair_is_equal(struct lab *lab, const char *sql)
{
    char *want = lab_sql(lab, &prim, sql);
    lab_sql_until(lab, &mirr, sql, want);
    free(want);
    tmpdir_do(lab->dir, "$PG/pg_amcheck -h $DIR/m -p 6002 -d postgres");
    lab_do(lab, &mirr, "stop", "");
    tmpdir_do(lab->dir, "$PG/pg_checksums --check -D $DIR/m");
    lab_do(lab, &mirr, "start", "\"listen\":\"\"");
}

#endif
