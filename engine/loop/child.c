#include "moonrise/loop/child.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"

#include "handle.h"

#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHILD_OUTPUT_GRACE_MS 1000
#define CHILD_REAP_MS         1000
#define CHILD_BUFFER_BYTES    65536

struct child_pipe {
    uv_pipe_t uv;
    bool open;
};

struct child {
    struct handle handle;
    struct child_spec spec;
    uv_process_t process;
    uv_timer_t grace;
    struct child_pipe in, out, err;
    int closing; /* libuv handles whose close callback has not come */
    bool exited, reported;
    bool freed;     /* by its owner: no more callbacks */
    bool destroyed; /* every handle is closed or closing */
    int exit_code, signal;
    char buffer[CHILD_BUFFER_BYTES];
};

struct child_write {
    uv_write_t uv;
    char bytes[];
};

static void
child_handle_closed(uv_handle_t *uv)
{
    struct child *c = uv->data;
    if (--c->closing == 0 && c->destroyed)
        free(c);
}

static void
child_close(struct child *c, uv_handle_t *uv)
{
    c->closing++;
    uv_close(uv, child_handle_closed);
}

static void
child_pipe_close(struct child *c, struct child_pipe *p)
{
    if (!p->open)
        return;
    p->open = false;
    child_close(c, (uv_handle_t *)&p->uv);
}

/* Ends what libuv holds; the memory goes with the last close callback. */
static void
child_destroy(struct child *c)
{
    handle_remove(&c->handle);
    c->freed = c->destroyed = true;
    child_pipe_close(c, &c->in);
    child_pipe_close(c, &c->out);
    child_pipe_close(c, &c->err);
    child_close(c, (uv_handle_t *)&c->grace);
    child_close(c, (uv_handle_t *)&c->process);
}

/* The end of an output. The callback may free the child: false says that it did. */
static bool
child_output_ended(struct child *c, struct child_pipe *p)
{
    if (!p->open)
        return true;
    child_pipe_close(c, p);
    void (*fn)(void *, const void *, size_t) = p == &c->out ? c->spec.on_stdout : c->spec.on_stderr;
    if (fn)
        fn(c->spec.arg, "", 0);
    return !c->freed;
}

static void
child_report(struct child *c)
{
    c->reported = true;
    uv_timer_stop(&c->grace);
    if (!child_output_ended(c, &c->out) || !child_output_ended(c, &c->err))
        return;
    child_pipe_close(c, &c->in);
    if (c->spec.on_exit)
        c->spec.on_exit(c->spec.arg, c->exit_code, c->signal);
}

static void
child_check(struct child *c)
{
    if (c->exited && !c->reported && !c->out.open && !c->err.open)
        child_report(c);
}

static void
child_outlived_grace(uv_timer_t *uv)
{
    child_kill(uv->data, SIGKILL, true);
}

static void
child_grace_over(uv_timer_t *uv)
{
    child_report(uv->data);
}

static void
child_exited(uv_process_t *uv, int64_t code, int signum)
{
    struct child *c = uv->data;
    c->exited = true;
    if (c->freed) {
        child_destroy(c);
        return;
    }
    c->exit_code = signum ? -1 : (int)code;
    c->signal = signum;
    uv_update_time(&c->handle.l->uv);
    uv_timer_start(&c->grace, child_grace_over, CHILD_OUTPUT_GRACE_MS, 0);
    child_check(c);
}

static void
child_alloc(uv_handle_t *uv, size_t suggested, uv_buf_t *buf)
{
    struct child *c = uv->data;
    (void)suggested;
    *buf = uv_buf_init(c->buffer, sizeof(c->buffer));
}

static void
child_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct child *c = stream->data;
    bool is_out = stream == (uv_stream_t *)&c->out.uv;
    void (*fn)(void *, const void *, size_t) = is_out ? c->spec.on_stdout : c->spec.on_stderr;
    if (n > 0 && fn)
        fn(c->spec.arg, buf->base, (size_t)n);
    else if (n < 0 && child_output_ended(c, is_out ? &c->out : &c->err))
        child_check(c);
}

static void
child_pipe_init(struct child *c, struct child_pipe *p, uv_stdio_container_t *io, int flags)
{
    must(uv_pipe_init(&c->handle.l->uv, &p->uv, 0) == 0);
    p->uv.data = c;
    p->open = true;
    io->flags = UV_CREATE_PIPE | flags;
    io->data.stream = (uv_stream_t *)&p->uv;
}

static int
child_spawn(struct child *c)
{
    uv_stdio_container_t io[3] = {{.flags = UV_IGNORE}, {.flags = UV_IGNORE}, {.flags = UV_IGNORE}};
    if (c->spec.pipe_stdin)
        child_pipe_init(c, &c->in, &io[0], UV_READABLE_PIPE);
    if (c->spec.on_stdout)
        child_pipe_init(c, &c->out, &io[1], UV_WRITABLE_PIPE);
    if (c->spec.inherit_stderr)
        io[2] = (uv_stdio_container_t){.flags = UV_INHERIT_FD, .data.fd = STDERR_FILENO};
    else if (c->spec.on_stderr)
        child_pipe_init(c, &c->err, &io[2], UV_WRITABLE_PIPE);
    /* Detached is setsid: a process group of its own, which no Ctrl-C of the terminal reaches. */
    uv_process_options_t options = {
        .exit_cb = child_exited,
        .file = c->spec.argv[0],
        .args = (char **)c->spec.argv,
        .env = (char **)c->spec.env,
        .cwd = c->spec.cwd,
        .flags = UV_PROCESS_DETACHED,
        .stdio_count = 3,
        .stdio = io,
    };
    return uv_spawn(&c->handle.l->uv, &c->process, &options);
}

static void
child_await(int pid, int ms)
{
    int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
    if (pidfd < 0)
        return;
    poll(&(struct pollfd){.fd = pidfd, .events = POLLIN}, 1, ms);
    close(pidfd);
}

static void
child_drop(struct handle *h)
{
    struct child *c = (struct child *)h;
    if (!c->exited) {
        int pid = c->process.pid;
        /* One whose input was ended in time keeps its grace. */
        if (c->freed && uv_is_active((uv_handle_t *)&c->grace)) {
            child_pipe_close(c, &c->in);
            child_await(pid, (int)uv_timer_get_due_in(&c->grace));
        }
        kill(-pid, SIGKILL);
        /* libuv will not reap it any more. One that cannot be killed is left to init. */
        child_await(pid, CHILD_REAP_MS);
        waitpid(pid, NULL, WNOHANG);
    }
    child_destroy(c);
}

int
child_start(struct child **out, struct loop *l, const struct child_spec *spec, struct err *e)
{
    struct child *c = mem_zalloc(sizeof(*c));
    handle_add(&c->handle, l, child_drop);
    c->spec = *spec;
    c->process.data = c;
    must(uv_timer_init(&l->uv, &c->grace) == 0);
    c->grace.data = c;
    int rc = child_spawn(c);
    /* What they point at is the caller's. */
    c->spec.argv = c->spec.env = NULL;
    c->spec.cwd = NULL;
    if (rc != 0) {
        child_destroy(c);
        return err_sys(e, -rc, "cannot start %s", spec->argv[0]);
    }
    if (c->out.open)
        uv_read_start((uv_stream_t *)&c->out.uv, child_alloc, child_read);
    if (c->err.open)
        uv_read_start((uv_stream_t *)&c->err.uv, child_alloc, child_read);
    *out = c;
    return 0;
}

static void
child_written(uv_write_t *uv, int status)
{
    (void)status;
    free(uv->data);
}

void
child_write(struct child *c, const void *bytes, size_t len)
{
    if (!c->in.open || uv_is_writable((uv_stream_t *)&c->in.uv) == 0 || len == 0)
        return;
    struct child_write *w = mem_alloc(sizeof(*w) + len);
    memcpy(w->bytes, bytes, len);
    w->uv.data = w;
    uv_buf_t buf = uv_buf_init(w->bytes, (unsigned)len);
    if (uv_write(&w->uv, (uv_stream_t *)&c->in.uv, &buf, 1, child_written) != 0)
        free(w);
}

size_t
child_unsent_bytes(const struct child *c)
{
    return c->in.open ? uv_stream_get_write_queue_size((const uv_stream_t *)&c->in.uv) : 0;
}

static void
child_shut(uv_shutdown_t *uv, int status)
{
    struct child *c = uv->handle->data;
    /* Cancelled means that the pipe is being closed already. */
    if (status != UV_ECANCELED)
        child_pipe_close(c, &c->in);
    free(uv);
}

void
child_close_stdin(struct child *c)
{
    if (!c->in.open || uv_is_writable((uv_stream_t *)&c->in.uv) == 0)
        return;
    uv_shutdown_t *request = mem_alloc(sizeof(*request));
    if (uv_shutdown(request, (uv_stream_t *)&c->in.uv, child_shut) != 0) {
        free(request);
        child_pipe_close(c, &c->in);
    }
}

int
child_pid(const struct child *c)
{
    return c->process.pid;
}

void
child_kill(struct child *c, int signal, bool group)
{
    if (!c->exited)
        kill(group ? -c->process.pid : c->process.pid, signal);
}

void
child_end(struct child *c, int64_t grace_ms)
{
    if (!c)
        return;
    if (c->exited) {
        child_destroy(c);
        return;
    }
    /* libuv reaps it only while its handle is open: the rest is done when it has gone. */
    handle_hide(&c->handle);
    c->freed = true;
    child_pipe_close(c, &c->out);
    child_pipe_close(c, &c->err);
    child_close_stdin(c);
    uv_update_time(&c->handle.l->uv);
    uv_timer_start(&c->grace, child_outlived_grace, grace_ms > 0 ? (uint64_t)grace_ms : 0, 0);
}

void
child_free(struct child *c)
{
    if (c && !c->exited)
        child_kill(c, SIGKILL, true);
    child_end(c, 0);
}
