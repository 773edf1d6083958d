#include "bind.h"
#include "objects.h"
#include "program.h"
#include "runtime.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"
#include "moonrise/loop/job.h"
#include "moonrise/loop/loop.h"
#include "moonrise/wire/ssh.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* Between two looks at whether anybody still wants it. */
enum { SLICE_MS = 200 };

struct far_program {
    struct wait wait;
    struct runtime *rt;
    struct job *job; /* NULL once it is told to stop */
    char *host, **argv, *input;
    size_t input_len, sent;
    int64_t connect_ms, timeout_ms;
    struct str out;
    struct err why;
};

static void
far_dispose(void *arg)
{
    struct far_program *p = arg;
    free(p->argv);
    free(p->host);
    free(p->input);
    str_free(&p->out);
    free(p);
}

/* Sends what there is to be sent: false when that is all. A program that takes no more is read on. */
static bool
far_send(struct far_program *p, int fd)
{
    ssize_t n = send(fd, p->input + p->sent, p->input_len - p->sent, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n >= 0)
        p->sent += (size_t)n;
    else if (errno != EAGAIN && errno != EINTR)
        p->sent = p->input_len;
    if (p->sent < p->input_len)
        return true;
    shutdown(fd, SHUT_WR);
    return false;
}

/* 1: it has ended its output; 0: go on; or an ERR_*. */
static int
far_receive(struct far_program *p, int fd)
{
    char chunk[65536];
    ssize_t n = recv(fd, chunk, sizeof(chunk), MSG_DONTWAIT);
    if (n == 0)
        return 1;
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : 1;
    str_append(&p->out, chunk, (size_t)n);
    return p->out.len > PROGRAM_OUTPUT_BYTES ? program_too_long(&p->why) : 0;
}

static int
far_talk(struct far_program *p, struct job_self *self, int fd)
{
    int64_t begun = clock_ms();
    bool sending = far_send(p, fd);
    int rc = 0;
    while (rc == 0) {
        struct pollfd ready = {.fd = fd, .events = sending ? POLLIN | POLLOUT : POLLIN};
        poll(&ready, 1, SLICE_MS);
        if (atomic_load(&self->cancel))
            return err_set(&p->why, ERR_CANCELLED, "cancelled");
        if (p->timeout_ms > 0 && clock_ms() - begun > p->timeout_ms)
            return err_set(&p->why, ERR_TIMEOUT, "on %s: it did not end in time", p->host);
        if (sending && ready.revents & POLLOUT)
            sending = far_send(p, fd);
        if (ready.revents & (POLLIN | POLLHUP | POLLERR))
            rc = far_receive(p, fd);
    }
    return rc;
}

static void
far_run(struct job_self *self, void *arg)
{
    struct far_program *p = arg;
    struct ssh *ssh;
    struct ssh_spec spec = {p->host, (const char *const *)p->argv, p->connect_ms, &self->cancel};
    if (ssh_open(&ssh, &spec, &p->why) != 0)
        return;
    if (far_talk(p, self, ssh_fd(ssh)) == 1)
        ssh_why(ssh, &p->why);
    ssh_close(ssh);
}

static int
push_output(lua_State *L, void *arg)
{
    struct far_program *p = arg;
    lua_pushlstring(L, p->out.data, p->out.len);
    return 1;
}

static void
far_done(void *arg)
{
    struct far_program *p = arg;
    if (p->why.code)
        wait_end(&p->wait, push_error, &p->why);
    else
        wait_end(&p->wait, push_output, p);
    far_dispose(p);
}

/* Whoever waited goes on; the job ends by itself soon. */
static bool
far_cancel(struct wait *w, bool force)
{
    struct far_program *p = (struct far_program *)w;
    (void)force;
    job_cancel(p->job);
    w->task = NULL;
    return true;
}

/* mr.run_on(host, argv, options?) -> text, or nil, err */
int
run_on(lua_State *L)
{
    static const char *const known[] = {"stdin", "timeout_ms", "connect_ms", NULL};
    const char *host = luaL_checkstring(L, 1);
    lua_settop(L, 3);
    opt_table(L, 3, known);
    const char **argv = program_argv(L, 2);
    int64_t timeout_ms = (int64_t)opt_number(L, 3, "timeout_ms", 0);
    int64_t connect_ms = (int64_t)opt_number(L, 3, "connect_ms", 10000);
    const char *input = opt_text(L, 3, "stdin", "");
    struct task *t;
    int rc = task_enter(L, "run_on", &t);
    if (rc)
        return rc;
    lua_getfield(L, 3, "stdin");
    size_t len = lua_objlen(L, -1);
    struct far_program *p = mem_zalloc(sizeof(*p));
    struct err e;
    *p = (struct far_program){.wait = {.cancel = far_cancel, .what = "a program"},
                              .rt = t->rt,
                              .host = mem_strdup(host),
                              .argv = mem_words(argv),
                              .input = mem_alloc(len + 1),
                              .input_len = len,
                              .connect_ms = connect_ms,
                              .timeout_ms = timeout_ms};
    memcpy(p->input, input, len);
    str_init(&p->out);
    struct job_spec spec = {.run = far_run, .done = far_done, .left = far_dispose, .arg = p};
    if (job_start(&p->job, t->rt->loop, &spec, &e)) {
        far_dispose(p);
        return error_return(L, &e);
    }
    return task_wait(L, t, &p->wait, -1, 0);
}
