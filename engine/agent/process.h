/*
 * Who uses a data directory: SAFETY.md's sense of "stopped", and the fence.
 *
 * A process uses a directory when it maps the SysV segment named in its postmaster.pid (maps shows
 * /SYSV<key>, and the segment's id as inode), or when it works in the directory and runs a postgres
 * executable, a deleted one too. A zombie counts as gone. What postmaster.pid names otherwise is a
 * foreign process that was given the same number, and is left alone. Any thread; Linux's /proc.
 */
#ifndef AGENT_PROCESS_H
#define AGENT_PROCESS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

struct process {
    int pid;
    char state;     /* the letter of /proc/PID/stat */
    uint64_t start; /* ticks since boot: together with pid it never names another process */
    uint64_t ticks; /* processor time used */
    char *exe;      /* "" when it cannot be read */
    char *title;    /* command line, as servers rewrite it */
    bool postmaster;
};

struct process_list {
    struct process *items;
    size_t count;
};

#define PROCESS_LIST_INIT                                                                          \
    {                                                                                              \
        .items = NULL, .count = 0                                                                  \
    }

/* Finds who uses `datadir`; free with process_list_done. A directory that does not exist is used by
 * nobody. ERR_IO, ERR_PERMISSION. */
int process_scan(struct process_list *out, const char *datadir, struct err *e);

/* The same until two passes in a row find nobody: one that forked behind the first pass's back and
 * went is seen by the second. ERR_RUNNING names who is left. */
int process_prove_stopped(const char *datadir, struct err *e);

/* Kills everybody who uses the directory, by SIGKILL, the postmaster first, until proven stopped.
 * `killed` (may be NULL) is added to. ERR_RUNNING when somebody is left at the deadline. */
int process_kill_all(const char *datadir, struct process_list *killed, int64_t deadline_ms,
                     struct err *e);

/* Sends `signum` to the postmaster that postmaster.pid names, once it is proven to be one of this
 * directory; *pid is it. ERR_NOTFOUND when there is none. */
int process_signal_postmaster(const char *datadir, int signum, int *pid, struct err *e);

/* The postmaster in a list, or NULL. */
const struct process *process_postmaster(const struct process_list *list);

/* Whether pid is alive (a zombie is not) and began at `start` (0: whenever). */
bool process_alive(int pid, uint64_t start);

/* The start time of a process, 0 when it is gone. */
uint64_t process_start(int pid);

/* Whether somebody has stopped the process, by SIGSTOP or a debugger; *start is its start time. */
bool process_stopped(int pid, uint64_t *start);

/* Sends a signal to exactly the process (pid, start), never to a later owner of the number. */
bool process_signal(int pid, uint64_t start, int signum);

void process_list_done(struct process_list *list);

#endif
