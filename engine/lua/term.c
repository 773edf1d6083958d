#include "bind.h"
#include "objects.h"
#include "runtime.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"
#include "moonrise/loop/job.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define INPUT   "moonrise.input"
#define OUTPUTS "moonrise.outputs"

/* A line of input is read on a thread, because making the terminal non-blocking would change it for
 * the shell that shares it. The thread looks this often whether it should stop. */
enum { INPUT_LOOK_MS = 50 };

struct input {
    struct wait wait;
    struct runtime *rt;
    struct job *job;   /* NULL when no thread reads */
    struct str buffer; /* what was read and not yet given away */
    char chunk[4096];  /* the thread's */
    ssize_t got;       /* its last read: -1 nothing, 0 the end */
    bool ended;
};

/* What standard error may have waiting; standard output, which is asked for, is never cut. */
enum { QUEUE_BYTES_MAX = 1 << 20 };

struct output {
    struct runtime *rt;
    int fd;
    bool busy;                 /* a thread writes `writing` */
    struct str queue, writing; /* what comes after it */
    size_t dropped;
};

static int
check_stream(lua_State *L, int arg)
{
    static const char *const names[] = {"stdin", "stdout", "stderr", NULL};
    return luaL_checkoption(L, arg, NULL, names);
}

/* mr.is_tty(file) -> boolean */
static int
l_is_tty(lua_State *L)
{
    lua_pushboolean(L, isatty(check_stream(L, 1)));
    return 1;
}

/* mr.term_width() -> columns; 80 where there is no terminal */
static int
l_term_width(lua_State *L)
{
    struct winsize ws;
    int columns = 80;
    for (int fd = STDERR_FILENO; fd >= STDOUT_FILENO; fd--)
        if (ioctl(fd, TIOCGWINSZ, &ws) == 0 && ws.ws_col > 0)
            columns = ws.ws_col;
    lua_pushinteger(L, columns);
    return 1;
}

/* Writes all of it; a reader that has gone away is nobody to tell. */
static void
write_all(int fd, const char *text, size_t len)
{
    while (len > 0) {
        ssize_t n = write(fd, text, len);
        if (n < 0 && errno == EAGAIN) {
            struct pollfd p = {.fd = fd, .events = POLLOUT};
            poll(&p, 1, -1);
        } else if (n < 0 && errno != EINTR)
            return;
        if (n > 0) {
            text += n;
            len -= (size_t)n;
        }
    }
}

static void output_start(struct output *out);

/* As much as goes without waiting; -1 and EAGAIN when that is nothing. The descriptor is shared with
 * others and stays blocking: a terminal is opened once more, a pipe takes PIPE_BUF when it is ready. */
static ssize_t
write_some(int fd, const char *text, size_t len)
{
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    struct stat st;
    if (fstat(fd, &st) < 0 || S_ISREG(st.st_mode))
        return write(fd, text, len);
    if (S_ISSOCK(st.st_mode))
        return send(fd, text, len, MSG_DONTWAIT | MSG_NOSIGNAL);
    errno = EAGAIN;
    if (poll(&p, 1, 0) <= 0)
        return -1;
    if (S_ISFIFO(st.st_mode))
        return write(fd, text, len < PIPE_BUF ? len : PIPE_BUF);
    char name[32];
    snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
    int own = open(name, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    ssize_t n = own < 0 ? -1 : write(own, text, len);
    if (own < 0)
        errno = EAGAIN; /* another user's terminal: a thread writes to it */
    else
        close(own);
    return n;
}

static void
output_write(struct job_self *self, void *arg)
{
    struct output *out = arg;
    (void)self;
    write_all(out->fd, out->writing.data, out->writing.len);
}

static void
output_done(void *arg)
{
    struct output *out = arg;
    out->rt->jobs--;
    str_free(&out->writing);
    out->busy = false;
    if (out->dropped > 0)
        str_printf(&out->queue, "moonrise: %zu messages were not written\n", out->dropped);
    out->dropped = 0;
    if (out->queue.len > 0)
        output_start(out);
}

/* Hands what is queued to a thread; where there is none to be had it is written here. */
static void
output_start(struct output *out)
{
    struct job_spec spec = {.run = output_write, .done = output_done, .arg = out};
    struct job *job;
    struct err e;
    /* Before the thread begins: it may be through before job_start returns. */
    out->writing = out->queue;
    out->queue = (struct str)STR_INIT;
    if (job_start(&job, out->rt->loop, &spec, &e) < 0) {
        write_all(out->fd, out->writing.data, out->writing.len);
        str_free(&out->writing);
        return;
    }
    out->busy = true;
    out->rt->jobs++;
}

/* A reader that has stopped must not stop the loop: what does not go at once goes by a thread, and
 * what comes meanwhile waits for it. */
static int
output_text(lua_State *L, int fd)
{
    size_t len;
    ssize_t n = 0;
    const char *text = luaL_checklstring(L, 1, &len);
    lua_getfield(L, LUA_REGISTRYINDEX, OUTPUTS);
    struct output *out = (struct output *)lua_touserdata(L, -1) + (fd == STDERR_FILENO);
    if (!out->busy) {
        out->rt = runtime_of(L);
        out->fd = fd;
    }
    if (!out->rt->loop) {
        write_all(fd, text, len);
        return 0;
    }
    while (!out->busy && len > 0 && ((n = write_some(fd, text, len)) > 0 || errno == EINTR)) {
        text += n > 0 ? n : 0;
        len -= n > 0 ? (size_t)n : 0;
    }
    if (len == 0 || (!out->busy && n < 0 && errno != EAGAIN))
        return 0;
    if (fd == STDERR_FILENO && out->queue.len > QUEUE_BYTES_MAX) {
        out->dropped++;
        return 0;
    }
    str_append(&out->queue, text, len);
    if (!out->busy)
        output_start(out);
    return 0;
}

/* mr.out(text) */
static int
l_out(lua_State *L)
{
    return output_text(L, STDOUT_FILENO);
}

/* mr.err(text) */
static int
l_err(lua_State *L)
{
    return output_text(L, STDERR_FILENO);
}

static void
input_read(struct job_self *self, void *arg)
{
    struct input *in = arg;
    struct pollfd p = {.fd = STDIN_FILENO, .events = POLLIN};
    in->got = -1;
    while (!atomic_load(&self->cancel)) {
        int n = poll(&p, 1, INPUT_LOOK_MS);
        if (n == 0 || (n < 0 && errno == EINTR))
            continue;
        in->got = n < 0 ? 0 : read(STDIN_FILENO, in->chunk, sizeof(in->chunk));
        if (in->got < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (in->got < 0)
            in->got = 0;
        return;
    }
}

/* Pushes the next line without its end, or nil at the end of input; false when there is neither yet. */
static bool
input_push_line(lua_State *L, struct input *in)
{
    const char *end = memchr(in->buffer.data, '\n', in->buffer.len);
    size_t len = end ? (size_t)(end - in->buffer.data) : in->buffer.len;
    if (!end && !in->ended)
        return false;
    if (!end && len == 0) {
        lua_pushnil(L);
        return true;
    }
    lua_pushlstring(L, in->buffer.data, len);
    struct str rest = STR_INIT;
    if (end)
        str_append(&rest, end + 1, in->buffer.len - len - 1);
    str_free(&in->buffer);
    in->buffer = rest;
    return true;
}

static int
push_line(lua_State *L, void *arg)
{
    if (!input_push_line(L, arg))
        lua_pushnil(L);
    return 1;
}

static int input_start(struct input *in, struct err *e);

static void
input_done(void *arg)
{
    struct input *in = arg;
    struct err e;
    in->job = NULL;
    in->rt->jobs--;
    if (in->got > 0)
        str_append(&in->buffer, in->chunk, (size_t)in->got);
    in->ended = in->ended || in->got == 0;
    if (!in->wait.task)
        return;
    if (in->ended || memchr(in->buffer.data, '\n', in->buffer.len))
        wait_end(&in->wait, push_line, in);
    else if (input_start(in, &e))
        wait_end(&in->wait, push_error, &e);
}

static int
input_start(struct input *in, struct err *e)
{
    struct job_spec spec = {.run = input_read, .done = input_done, .arg = in};
    int rc = job_start(&in->job, in->rt->loop, &spec, e);
    if (rc == 0)
        in->rt->jobs++;
    return rc;
}

static bool
input_cancel(struct wait *w, bool force)
{
    (void)force;
    struct input *in = (struct input *)w;
    if (in->job)
        job_cancel(in->job);
    return true;
}

/* mr.read_line() -> text, or nil at the end of input, or nil, err */
static int
l_read_line(lua_State *L)
{
    lua_getfield(L, LUA_REGISTRYINDEX, INPUT);
    struct input *in = lua_touserdata(L, -1);
    struct task *t;
    int rc = task_enter(L, "read_line", &t);
    if (rc)
        return rc;
    if (in->wait.task)
        return luaL_error(L, "read_line: another task reads standard input");
    if (input_push_line(L, in))
        return 1;
    struct err e;
    in->rt = t->rt;
    in->wait.cancel = input_cancel;
    in->wait.what = "a line of input";
    if (!in->job && input_start(in, &e))
        return error_return(L, &e);
    return task_wait(L, t, &in->wait, -1, 0);
}

static int
l_input_gc(lua_State *L)
{
    struct input *in = lua_touserdata(L, 1);
    str_free(&in->buffer);
    return 0;
}

void
term_functions(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"is_tty", l_is_tty}, {"term_width", l_term_width}, {"out", l_out},
        {"err", l_err},       {"read_line", l_read_line},   {NULL, NULL}};
    luaL_setfuncs(L, functions, 0);
    struct output *out = lua_newuserdata(L, 2 * sizeof(*out));
    for (int i = 0; i < 2; i++)
        out[i] = (struct output){.queue = STR_INIT, .writing = STR_INIT};
    lua_setfield(L, LUA_REGISTRYINDEX, OUTPUTS);
    luaL_newmetatable(L, "moonrise.Input");
    lua_pushcfunction(L, l_input_gc);
    lua_setfield(L, -2, "__gc");
    lua_pop(L, 1);
    struct input *in = class_new(L, "moonrise.Input", sizeof(*in));
    str_init(&in->buffer);
    lua_setfield(L, LUA_REGISTRYINDEX, INPUT);
}
