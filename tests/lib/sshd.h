/*
 * A real sshd for a unit: run by this very user in a throwaway directory, on a free port of 127.0.0.1, with
 * keys of its own, and the ~/.ssh of somebody who may log in there. Included by units.
 */
#ifndef MOONRISE_TESTS_SSHD_H
#define MOONRISE_TESTS_SSHD_H

#include "moment.h"
#include "tmpdir.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"
#include "moonrise/loop/loop.h"
#include "moonrise/wire/ssh.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <glob.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define SSHD_PROGRAM     "tests/lib/run_sshd"
#define SSHD_DEADLINE_MS 60000
#define SSHD_CONNECT_MS  30000

struct sshd {
    char *dir;
    int port;
    pid_t pid; /* 0 when it does not run */
};

/* Why there can be none here, or an empty text. Free with free(). */
static inline char *
sshd_missing(void)
{
    char *here = getcwd(NULL, 0), *command = mem_printf("'%s/%s'", here, SSHD_PROGRAM);
    char *said = tmpdir_shell("/", command);
    said[strcspn(said, "\n")] = '\0';
    free(command);
    free(here);
    return said;
}

/* A listening socket on a free port. */
static inline int
sshd_listen(int *port_out)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(a);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(listen(fd, 64), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &size), 0);
    *port_out = ntohs(a.sin_port);
    return fd;
}

static inline bool
sshd_answers(const struct sshd *d)
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons((uint16_t)d->port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool yes = connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0;
    close(fd);
    return yes;
}

static inline void
sshd_exec(const struct sshd *d)
{
    char *log = mem_printf("%s/sshd.log", d->dir);
    char *argv[] = {(char *)SSHD_PROGRAM, d->dir, NULL};
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0 || dup2(fd, 1) < 0 || dup2(fd, 2) < 0)
        _exit(126);
    execv(argv[0], argv);
    _exit(127);
}

static inline void
sshd_start(struct sshd *d)
{
    d->pid = fork();
    if (d->pid == 0)
        sshd_exec(d);
    int64_t deadline = clock_ms() + SSHD_DEADLINE_MS;
    while (!sshd_answers(d)) {
        if (clock_ms() > deadline || waitpid(d->pid, NULL, WNOHANG) != 0)
            fail_msg("sshd does not run: %s", tmpdir_shell(d->dir, "cat $DIR/sshd.log"));
        moment_pass(20000);
    }
}

static inline void
sshd_stop(struct sshd *d)
{
    if (d->pid == 0)
        return;
    kill(d->pid, SIGKILL);
    waitpid(d->pid, NULL, 0);
    d->pid = 0;
}

/* Ends what serves the sessions that are open now: of each a process that watches, and its child, which has
 * the connection. */
static inline void
sshd_break_sessions(const struct sshd *d)
{
    char *command = mem_printf("for p in $(cat /proc/%d/task/%d/children); do "
                               "c=$(cat /proc/$p/task/$p/children); kill -9 $p $c || :; done",
                               (int)d->pid, (int)d->pid);
    tmpdir_do(d->dir, command);
    free(command);
}

/* Makes DIR/ssh the ~/.ssh of this process, in which `box` is the server's name; `more` is appended to
 * sshd_config. */
static inline void
sshd_setup(struct sshd *d, const char *more)
{
    d->dir = tmpdir_make();
    close(sshd_listen(&d->port));
    tmpdir_do(d->dir, "mkdir -m 700 $DIR/ssh && ssh-keygen -q -t ed25519 -N '' -f $DIR/host_key && "
                      "ssh-keygen -q -t ed25519 -N '' -f $DIR/ssh/id_ed25519 && "
                      "cp $DIR/ssh/id_ed25519.pub $DIR/authorized_keys");
    char *config =
        mem_printf("ListenAddress 127.0.0.1\nPort %d\nHostKey %s/host_key\nUsePAM no\n"
                   "StrictModes no\nPidFile none\nAuthorizedKeysFile %s/authorized_keys\n"
                   "PasswordAuthentication no\nKbdInteractiveAuthentication no\n%s",
                   d->port, d->dir, d->dir, more);
    tmpdir_write(d->dir, "sshd_config", config);
    free(config);
    config = mem_printf("Host box\n  HostName 127.0.0.1\n  Port %d\n", d->port);
    tmpdir_write(d->dir, "ssh/config", config);
    free(config);
    config = mem_printf("echo \"[127.0.0.1]:%d $(cat $DIR/host_key.pub)\" >$DIR/ssh/known_hosts",
                        d->port);
    tmpdir_do(d->dir, config);
    free(config);
    config = mem_printf("%s/ssh", d->dir);
    setenv("MOONRISE_SSH_DIR", config, 1);
    free(config);
    unsetenv("SSH_AUTH_SOCK");
}

static inline void
sshd_teardown(struct sshd *d)
{
    sshd_stop(d);
    unsetenv("MOONRISE_SSH_DIR");
    tmpdir_remove(d->dir);
}

static inline int
sshd_setup_with(void **state, const char *options)
{
    struct sshd *d = mem_zalloc(sizeof(*d));
    *state = d;
    char *missing = sshd_missing();
    bool runs = !*missing;
    free(missing);
    if (!runs)
        return 0;
    sshd_setup(d, options);
    sshd_start(d);
    return 0;
}

static inline int
sshd_default(void **state)
{
    return sshd_setup_with(state, "");
}

static inline int
sshd_end(void **state)
{
    struct sshd *d = *state;
    if (d->dir)
        sshd_teardown(d);
    free(d);
    return 0;
}

static inline struct sshd *
sshd_need(void **state)
{
    struct sshd *d = *state;
    if (d->dir)
        return d;
    char *missing = sshd_missing();
    print_message("# %s\n", missing);
    free(missing);
    skip();
    return NULL;
}

static inline struct ssh *
sshd_open(const char *const *argv)
{
    struct ssh *s;
    struct err e = {0};
    struct ssh_spec spec = {.host = "box", .argv = argv, .connect_ms = SSHD_CONNECT_MS};
    if (ssh_open(&s, &spec, &e) != 0)
        fail_msg("%s (%s)", e.message, e.hint);
    return s;
}

static inline void
sshd_has(const char *text, const char *part)
{
    if (!strstr(text, part))
        fail_msg("\"%s\" has no \"%s\"", text, part);
}

static inline char *
sshd_read(struct ssh *s)
{
    struct str out = STR_INIT;
    char chunk[4096];
    ssize_t n;
    while ((n = read(ssh_fd(s), chunk, sizeof(chunk))) > 0)
        str_append(&out, chunk, (size_t)n);
    return str_take(&out);
}

static inline void
sshd_says(struct ssh *s, const char *text)
{
    char *said = sshd_read(s);
    assert_string_equal(said, text);
    free(said);
}

#define SSHD_TEST(test, how) cmocka_unit_test_setup_teardown(test, how, sshd_end)

#endif
