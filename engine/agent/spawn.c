#include "spawn.h"

#include "moonrise/base/core.h"
#include "moonrise/base/err.h"
#include "moonrise/base/str.h"
#include "moonrise/loop/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

#define OUTPUT_LIMIT (64u << 10)
#define LINES_TOLD   3

/* The environment without libpq's and PostgreSQL's variables, which must change nothing, and our own. */
static char **
clean_environment(void)
{
    size_t n = 0, kept = 0;
    while (environ[n])
        n++;
    char **env = mem_alloc((n + 1) * sizeof *env);
    for (size_t i = 0; i < n; i++) {
        if (strncmp(environ[i], "PG", 2) != 0 && strncmp(environ[i], "NOTIFY_", 7) != 0 &&
            strncmp(environ[i], CORE_VARIABLE "=", sizeof CORE_VARIABLE) != 0)
            env[kept++] = environ[i];
    }
    env[kept] = NULL;
    return env;
}

/* In the child, between fork and exec, only what is safe after a fork of a program with threads. */
static void __attribute__((noreturn))
child_exec(const char *const *argv, char **env, const int fds[3], const char *cwd, int report)
{
    sigset_t none;
    struct sigaction dfl = {.sa_handler = SIG_DFL};
    for (int sig = 1; sig < 32; sig++)
        sigaction(sig, &dfl, NULL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    for (int i = 0; i < 3; i++)
        dup2(fds[i], i);
    /* `report` was moved above 3 and closes on exec, so an exec that works says nothing. */
    close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);
    core_restore();
    if (chdir(cwd) == 0)
        execve(argv[0], (char *const *)argv, env);
    int error = errno;
    while (write(report, &error, sizeof error) < 0 && errno == EINTR)
        ;
    _exit(127);
}

static void
close_pair(int fds[2])
{
    for (int i = 0; i < 2; i++) {
        if (fds[i] >= 0)
            close(fds[i]);
        fds[i] = -1;
    }
}

/* Reads what the child reports: nothing when its exec worked. */
static int
exec_result(int report, const char *program, struct err *e)
{
    int error = 0;
    ssize_t n;
    while ((n = read(report, &error, sizeof error)) < 0 && errno == EINTR)
        ;
    return n == (ssize_t)sizeof error ? err_sys(e, error, "cannot run %s", program) : 0;
}

/* The intermediate child: forks the server, tells its process id, and goes, so that the server belongs to
 * nobody here and leaves no zombie of ours. */
static void __attribute__((noreturn))
server_fork(const char *const *argv, char **env, const int fds[3], const char *cwd, int report)
{
    setsid();
    pid_t pid = fork();
    if (pid == 0)
        child_exec(argv, env, fds, cwd, report);
    int told = (int)pid;
    _exit(write(report, &told, sizeof told) == (ssize_t)sizeof told ? 0 : 1);
}

int
spawn_server(int *pid, const char *const *argv, const char *cwd, int log_fd, struct err *e)
{
    int report[2], told = 0;
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    if (null < 0 || pipe2(report, O_CLOEXEC) != 0) {
        int error = errno;
        if (null >= 0)
            close(null);
        return err_sys(e, error, "cannot make a pipe");
    }
    char **env = clean_environment();
    const int fds[3] = {null, log_fd, log_fd};
    pid_t child = fork();
    if (child == 0)
        server_fork(argv, env, fds, cwd, report[1]);
    int rc = child < 0 ? err_sys(e, errno, "fork") : 0;
    close(report[1]);
    close(null);
    free(env);
    if (rc == 0 && (read(report[0], &told, sizeof told) != (ssize_t)sizeof told || told <= 0))
        rc = err_set(e, ERR_IO, "cannot fork a server");
    if (child > 0)
        waitpid(child, NULL, 0);
    if (rc == 0)
        rc = exec_result(report[0], argv[0], e);
    close(report[0]);
    *pid = told;
    return rc;
}

/* One turn of feeding and draining; false once the output has ended. */
static bool
pump(struct str *output, const struct spawn *s, int fds[2], size_t *fed)
{
    struct pollfd p[2] = {{.fd = fds[0], .events = POLLIN}, {.fd = fds[1], .events = POLLOUT}};
    if (poll(p, 2, 50) <= 0)
        return true;
    if (p[1].revents) {
        ssize_t n =
            *fed < s->input_bytes ? write(fds[1], s->input + *fed, s->input_bytes - *fed) : 0;
        if (n > 0)
            *fed += (size_t)n;
        if (*fed >= s->input_bytes || (n < 0 && errno != EINTR && errno != EAGAIN)) {
            close(fds[1]);
            fds[1] = -1;
        }
    }
    if (p[0].revents) {
        char buf[4096];
        ssize_t n = read(fds[0], buf, sizeof buf);
        if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN))
            return false;
        if (n > 0 && output->len < OUTPUT_LIMIT)
            str_append(output, buf, (size_t)n);
    }
    return true;
}

/* The last lines that say something, as one: PostgreSQL's programs give the cause before what it led to, or
 * before a hint. */
static const char *
last_lines(struct str *text)
{
    while (text->len > 0 && strchr("\n\r ", text->data[text->len - 1]))
        text->data[--text->len] = '\0';
    char *start = text->data + text->len;
    for (int lines = 0; start > text->data; start--) {
        if (start[-1] != '\n')
            continue;
        if (++lines == LINES_TOLD)
            break;
        start[-1] = ' ';
    }
    return start;
}

static int
collect(struct str *output, const struct spawn *s, pid_t child, int fds[2], struct err *e)
{
    int rc = 0, status = 0;
    size_t fed = 0;
    while (rc == 0 && pump(output, s, fds, &fed)) {
        if (s->cancel && atomic_load(s->cancel))
            rc = err_set(e, ERR_CANCELLED, "%s was cancelled", s->argv[0]);
        else if (clock_ms() > s->deadline_ms)
            rc = err_set(e, ERR_TIMEOUT, "%s did not end in time", s->argv[0]);
    }
    if (rc < 0)
        kill(child, SIGKILL); /* our own child, not yet reaped: the number is still its */
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    if (rc == 0 && (!WIFEXITED(status) || WEXITSTATUS(status) != 0))
        rc = err_set(e, ERR_CHILD, "%s failed: %.400s", s->argv[0], last_lines(output));
    return rc;
}

int
spawn_run(struct str *output, const struct spawn *s, struct err *e)
{
    int in[2] = {-1, -1}, out[2] = {-1, -1}, report[2] = {-1, -1};
    if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0 || pipe2(report, O_CLOEXEC) != 0) {
        int error = errno;
        close_pair(in);
        close_pair(out);
        return err_sys(e, error, "cannot make a pipe");
    }
    char **env = clean_environment();
    const int fds[3] = {in[0], out[1], out[1]};
    pid_t child = fork();
    if (child == 0 && prctl(PR_SET_PDEATHSIG, SIGKILL) == 0)
        child_exec(s->argv, env, fds, s->cwd, report[1]);
    int rc = child < 0 ? err_sys(e, errno, "fork") : 0;
    free(env);
    close(in[0]);
    close(out[1]);
    close(report[1]);
    in[0] = out[1] = report[1] = -1;
    if (rc == 0)
        rc = exec_result(report[0], s->argv[0], e);
    if (rc == 0) {
        fcntl(in[1], F_SETFL, O_NONBLOCK);
        int ends[2] = {out[0], in[1]};
        rc = collect(output, s, child, ends, e);
        in[1] = ends[1];
    } else if (child > 0) {
        waitpid(child, NULL, 0);
    }
    close_pair(in);
    close_pair(out);
    close_pair(report);
    return rc;
}
