#include "bind.h"
#include "objects.h"
#include "runtime.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

struct departure {
    struct wait wait;
    int log_fd;
};

static bool
departure_cancel(struct wait *w, bool force)
{
    (void)w;
    return force;
}

/* Forks twice, so that the process that goes on leads no session and can never get a terminal again.
 * The first process has nothing to clean up: what it had open lives on in the other one. */
static void
departure_fork(void *arg)
{
    struct departure *d = arg;
    struct err e = {0};
    pid_t pid = fork();
    if (pid > 0)
        _exit(0);
    if (pid < 0)
        err_sys(&e, errno, "fork");
    else if (setsid() < 0 || (pid = fork()) > 0)
        _exit(0);
    if (!e.code) {
        int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
        dup2(null_fd, STDIN_FILENO);
        dup2(d->log_fd, STDOUT_FILENO);
        dup2(d->log_fd, STDERR_FILENO);
        close(null_fd);
    }
    close(d->log_fd);
    if (e.code)
        wait_end(&d->wait, push_error, &e);
    else
        wait_end(&d->wait, NULL, NULL);
    free(d);
}

/* mr.daemonize(log_path) -> true in the background process, or nil, err */
int
daemon_start(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);
    struct task *t;
    int rc = task_enter(L, "daemonize", &t);
    if (rc)
        return rc;
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) {
        struct err e;
        err_sys(&e, errno, "open %s", path);
        return error_return(L, &e);
    }
    struct departure *d = mem_zalloc(sizeof(*d));
    d->wait.cancel = departure_cancel;
    d->wait.what = "the background process";
    d->log_fd = fd;
    if (!runtime_outside(t->rt, departure_fork, d)) {
        close(fd);
        free(d);
        return luaL_error(L, "daemonize: tasks, connections or agents are there already");
    }
    return task_wait(L, t, &d->wait, -1, 0);
}
