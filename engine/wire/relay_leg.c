#include "relay_leg.h"

#include "moonrise/base/err.h"
#include "moonrise/wire/ssh.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <sys/pidfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

/* To put its work down after its input has ended, as a program on another host has. */
#define CHILD_GRACE_MS 12000

/* All other descriptors of this program close on exec. */
static int
open_child(struct leg *leg, const char *const *argv, struct err *e)
{
    posix_spawn_file_actions_t actions;
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
        return err_sys(e, errno, "cannot make a pair of sockets");
    must(posix_spawn_file_actions_init(&actions) == 0);
    must(posix_spawn_file_actions_adddup2(&actions, pair[1], STDIN_FILENO) == 0);
    must(posix_spawn_file_actions_adddup2(&actions, pair[1], STDOUT_FILENO) == 0);
    int sys = posix_spawnp(&leg->pid, argv[0], &actions, NULL, (char *const *)argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(pair[1]);
    leg->fd = pair[0];
    if (sys == 0)
        return 0;
    close(pair[0]);
    return err_sys(e, sys, "cannot run %s", argv[0]);
}

int
leg_open(struct leg *leg, const struct relay_leg *what, int64_t connect_ms,
         const atomic_bool *cancel, struct err *e)
{
    *leg = (struct leg){.fd = -1};
    if (!what->host)
        return open_child(leg, what->argv, e);
    struct ssh_spec spec = {
        .host = what->host, .argv = what->argv, .connect_ms = connect_ms, .cancel = cancel};
    int rc = ssh_open(&leg->ssh, &spec, e);
    if (rc == 0)
        leg->fd = ssh_fd(leg->ssh);
    return rc;
}

int
leg_fd(const struct leg *leg)
{
    return leg->fd;
}

void
leg_why(struct leg *leg, struct err *e)
{
    struct err why = {0};
    if (leg->ssh)
        ssh_why(leg->ssh, &why);
    if (why.code)
        *e = why;
}

static void
close_child(struct leg *leg)
{
    close(leg->fd);
    struct pollfd ended = {.fd = pidfd_open(leg->pid, 0), .events = POLLIN};
    if (ended.fd >= 0) {
        bool gone = poll(&ended, 1, CHILD_GRACE_MS) == 1;
        close(ended.fd);
        if (!gone)
            kill(leg->pid, SIGKILL);
    }
    while (waitpid(leg->pid, NULL, 0) < 0 && errno == EINTR)
        ;
}

void
leg_close(struct leg *leg)
{
    if (leg->ssh)
        ssh_close(leg->ssh);
    else
        close_child(leg);
}
