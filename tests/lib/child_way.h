/*
 * Feeders as children of a test or a benchmark, in the place of those that ssh starts: a program with a socket
 * as its standard input and output.
 */
#ifndef MOONRISE_TESTS_CHILD_WAY_H
#define MOONRISE_TESTS_CHILD_WAY_H

#include "../../engine/agent/remote.h"
#include "moonrise/base/err.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

struct child_way {
    struct remote_way way;
    const char *const *argv; /* NULL-terminated */
};

struct child_process {
    pid_t pid;
    int fd;
};

static inline int
child_way_open(const struct remote_way *way, const atomic_bool *cancel, void **process, int *fd,
               struct err *e)
{
    (void)cancel;
    const struct child_way *child = (const struct child_way *)way;
    struct child_process *p = calloc(1, sizeof(*p));
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
        free(p);
        return err_sys(e, errno, "no socket pair");
    }
    p->pid = fork();
    if (p->pid == 0) {
        dup2(ends[1], STDIN_FILENO);
        dup2(ends[1], STDOUT_FILENO);
        execvp(child->argv[0], (char *const *)child->argv);
        _exit(127);
    }
    close(ends[1]);
    *fd = p->fd = ends[0];
    *process = p;
    return 0;
}

static inline void
child_way_close(void *process)
{
    struct child_process *p = process;
    close(p->fd);
    waitpid(p->pid, NULL, 0);
    free(p);
}

static inline void
child_way_init(struct child_way *child, const char *const *argv)
{
    child->way =
        (struct remote_way){.host = "nearby", .open = child_way_open, .close = child_way_close};
    child->argv = argv;
}

#endif
