#include "bind.h"
#include "objects.h"
#include "runtime.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"
#include "moonrise/loop/job.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define INPUT "moonrise.input"

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

/* mr.out(text) */
static int
l_out(lua_State *L)
{
    size_t len;
    const char *text = luaL_checklstring(L, 1, &len);
    write_all(STDOUT_FILENO, text, len);
    return 0;
}

/* mr.err(text) */
static int
l_err(lua_State *L)
{
    size_t len;
    const char *text = luaL_checklstring(L, 1, &len);
    write_all(STDERR_FILENO, text, len);
    return 0;
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
    luaL_newmetatable(L, "moonrise.Input");
    lua_pushcfunction(L, l_input_gc);
    lua_setfield(L, -2, "__gc");
    lua_pop(L, 1);
    struct input *in = class_new(L, "moonrise.Input", sizeof(*in));
    str_init(&in->buffer);
    lua_setfield(L, LUA_REGISTRYINDEX, INPUT);
}
