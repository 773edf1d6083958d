#include "moonrise/wire/ssh.h"

#include "ssh_link.h"
#include "ssh_pump.h"

#include "moonrise/loop/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* What libssh does without a deadline (names, ssh-agent, files on a dead server) is left alone this long
 * after the deadline; then its thread is. */
#define SSH_LEAVE_MS 500

#define SSH_BUFFER_BYTES (1024 * 1024)

enum ssh_state { SSH_OPENING, SSH_UP, SSH_ENDED, SSH_FAILED };

/* How long the process's end waits for a session's. */
#define SSH_EXIT_S 1

/* Shared by its owner and its thread; the last of the two frees it. */
struct ssh {
    struct ssh *next, **link; /* in ssh_sessions, as long as the thread runs */
    pthread_t thread;
    char *host, *command;
    int64_t begun_ms, limit_ms;
    int fd, inner; /* the owner's end, and the thread's */
    atomic_bool stop;
    atomic_int phase;
    pthread_mutex_t lock; /* all that follows */
    pthread_cond_t changed;
    enum ssh_state state;
    int users;
    struct err why; /* why it is not up any more, or never was */
};

/* Whose threads run. */
static struct {
    pthread_mutex_t lock;
    pthread_once_t once;
    bool leaving; /* the process; who ends from now on is joined */
    struct ssh *first;
} ssh_sessions = {.lock = PTHREAD_MUTEX_INITIALIZER, .once = PTHREAD_ONCE_INIT};

static void
ssh_unlink(struct ssh *s)
{
    *s->link = s->next;
    if (s->next)
        s->next->link = s->link;
}

/* At exit(), which must not take OpenSSL away under a thread: for other processes than the program, which
 * does not wait (cli/main.c). It was registered after OpenSSL's own clean-up, so it runs before that. */
static void
ssh_leave(void)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += SSH_EXIT_S;
    pthread_mutex_lock(&ssh_sessions.lock);
    ssh_sessions.leaving = true;
    while (ssh_sessions.first) {
        struct ssh *s = ssh_sessions.first;
        pthread_t thread = s->thread;
        ssh_unlink(s);
        atomic_store(&s->stop, true);
        pthread_mutex_unlock(&ssh_sessions.lock);
        pthread_timedjoin_np(thread, NULL, &until);
        pthread_mutex_lock(&ssh_sessions.lock);
    }
    pthread_mutex_unlock(&ssh_sessions.lock);
}

static void
ssh_register(void)
{
    atexit(ssh_leave);
}

/* The last thing a thread does; false when the process's end waits for it, and keeps what it has. */
static bool
ssh_end_thread(struct ssh *s)
{
    pthread_mutex_lock(&ssh_sessions.lock);
    bool leaving = ssh_sessions.leaving;
    if (!leaving) {
        ssh_unlink(s);
        pthread_detach(pthread_self());
    }
    pthread_mutex_unlock(&ssh_sessions.lock);
    return !leaving;
}

static void
ssh_drop(struct ssh *s)
{
    pthread_mutex_lock(&s->lock);
    bool last = --s->users == 0;
    pthread_mutex_unlock(&s->lock);
    if (!last)
        return;
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    free(s->host);
    free(s->command);
    free(s);
}

static void
ssh_become(struct ssh *s, enum ssh_state state, const struct err *why)
{
    pthread_mutex_lock(&s->lock);
    s->state = state;
    if (why)
        s->why = *why;
    pthread_cond_signal(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

static void *
ssh_thread(void *arg)
{
    struct ssh *s = arg;
    struct ssh_link link = {.host = s->host,
                            .begun_ms = s->begun_ms,
                            .limit_ms = s->limit_ms,
                            .stop = &s->stop,
                            .phase = &s->phase};
    struct pump pump;
    struct err why;
    pump_init(&pump, &link, s->inner);
    bool up = ssh_link_open(&link, s->command, &pump.callbacks, &why) == 0;
    if (up) {
        ssh_become(s, SSH_UP, NULL);
        pump_run(&pump, &why);
        ssh_link_close(&link);
    }
    pump_done(&pump);
    /* Before the reader sees the end of file, so that it finds the reason. */
    ssh_become(s, up ? SSH_ENDED : SSH_FAILED, &why);
    close(s->inner);
    if (ssh_end_thread(s))
        ssh_drop(s);
    return NULL;
}

static void
ssh_widen(int fd)
{
    const int bytes = SSH_BUFFER_BYTES;
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
}

static int
ssh_new_session(struct ssh **out, const struct ssh_spec *spec, char *command, struct err *e)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
        free(command);
        return err_sys(e, errno, "cannot make a pair of sockets");
    }
    fcntl(pair[1], F_SETFL, O_NONBLOCK);
    ssh_widen(pair[0]);
    ssh_widen(pair[1]);
    struct ssh *s = mem_zalloc(sizeof(*s));
    s->host = mem_strdup(spec->host);
    s->command = command;
    s->begun_ms = clock_ms();
    s->limit_ms = spec->connect_ms;
    s->fd = pair[0];
    s->inner = pair[1];
    s->users = 2;
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    must(pthread_mutex_init(&s->lock, NULL) == 0);
    must(pthread_cond_init(&s->changed, &monotonic) == 0);
    pthread_condattr_destroy(&monotonic);
    *out = s;
    return 0;
}

static int
ssh_start_thread(struct ssh *s, struct err *e)
{
    pthread_once(&ssh_sessions.once, ssh_register);
    pthread_mutex_lock(&ssh_sessions.lock);
    int sys = pthread_create(&s->thread, NULL, ssh_thread, s);
    if (sys == 0) {
        s->link = &ssh_sessions.first;
        s->next = ssh_sessions.first;
        if (s->next)
            s->next->link = &s->next;
        ssh_sessions.first = s;
    }
    pthread_mutex_unlock(&ssh_sessions.lock);
    if (sys == 0)
        return 0;
    close(s->inner);
    ssh_drop(s);
    return err_sys(e, sys, "cannot start a thread");
}

static int
ssh_late(const struct ssh *s, struct err *e)
{
    ssh_link_late(atomic_load(&s->phase), s->limit_ms, e);
    return err_wrap(e, "ssh to %s", s->host);
}

/* Waits for the thread to be through with connecting. */
static int
ssh_await(struct ssh *s, const struct ssh_spec *spec, struct err *e)
{
    int rc = 0;
    pthread_mutex_lock(&s->lock);
    while (s->state == SSH_OPENING && rc == 0) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += SSH_LINK_SLICE_MS * 1000000;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&s->changed, &s->lock, &until);
        if (s->state != SSH_OPENING)
            break;
        if (spec->cancel && atomic_load(spec->cancel))
            rc = err_set(e, ERR_CANCELLED, "ssh to %s: cancelled", spec->host);
        else if (clock_ms() - s->begun_ms >= s->limit_ms + SSH_LEAVE_MS)
            rc = ssh_late(s, e);
    }
    if (rc == 0 && s->state == SSH_FAILED) {
        *e = s->why;
        rc = e->code;
    }
    pthread_mutex_unlock(&s->lock);
    return rc;
}

int
ssh_open(struct ssh **out, const struct ssh_spec *spec, struct err *e)
{
    struct ssh *s = NULL;
    struct str command = STR_INIT;
    struct err none;
    e = e ? e : &none;
    *out = NULL;
    int rc = ssh_quote(&command, spec->argv, e);
    if (rc == 0)
        rc = ssh_new_session(&s, spec, str_take(&command), e);
    str_free(&command);
    if (rc == 0) {
        rc = ssh_start_thread(s, e);
        if (rc == 0)
            rc = ssh_await(s, spec, e);
        if (rc != 0)
            ssh_close(s);
    }
    if (rc == 0)
        *out = s;
    return rc;
}

int
ssh_fd(const struct ssh *s)
{
    return s->fd;
}

void
ssh_why(struct ssh *s, struct err *e)
{
    pthread_mutex_lock(&s->lock);
    if (s->state == SSH_ENDED)
        *e = s->why;
    else
        err_set(e, ERR_CONNECT, "ssh to %s: the program has closed its output", s->host);
    pthread_mutex_unlock(&s->lock);
}

void
ssh_close(struct ssh *s)
{
    if (!s)
        return;
    atomic_store(&s->stop, true);
    close(s->fd);
    ssh_drop(s);
}
