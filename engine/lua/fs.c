#include "bind.h"
#include "objects.h"
#include "runtime.h"

#include "moonrise/base/err.h"
#include "moonrise/base/io.h"
#include "moonrise/base/path.h"
#include "moonrise/base/str.h"
#include "moonrise/loop/job.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOCK "moonrise.Lock"

struct lock {
    int fd; /* -1 once closed */
};

/* A path argument: text without NUL bytes, not empty. */
static const char *
check_path(lua_State *L, int arg)
{
    size_t len;
    const char *path = luaL_checklstring(L, arg, &len);
    luaL_argcheck(L, len > 0 && strlen(path) == len, arg, "path expected");
    return path;
}

static mode_t
check_mode(lua_State *L, int arg, const char *otherwise)
{
    const char *text = luaL_optstring(L, arg, otherwise);
    char *end;
    unsigned long mode = strtoul(text, &end, 8);
    luaL_argcheck(L, *text && !*end && mode <= 07777, arg, "mode: octal text expected");
    return (mode_t)mode;
}

static int
push_ok(lua_State *L, int rc, const struct err *e)
{
    if (rc)
        return error_return(L, e);
    lua_pushboolean(L, true);
    return 1;
}

/* mr.read_file(path, max_bytes?) -> text, or nil, err */
static int
l_read_file(lua_State *L)
{
    const char *path = check_path(L, 1);
    double limit = luaL_optnumber(L, 2, 16 << 20);
    luaL_argcheck(L, limit >= 0 && limit <= 1 << 30, 2, "max_bytes: at most 1 GiB");
    struct str text = STR_INIT;
    struct err e;
    int rc = io_read_file(&text, path, (size_t)limit, &e);
    if (rc == 0)
        lua_pushlstring(L, text.data, text.len);
    str_free(&text);
    return rc ? error_return(L, &e) : 1;
}

/* A write that is flushed, which may take seconds: done by a thread while a task waits. */
struct fs_write {
    struct wait wait;
    struct runtime *rt;
    char *path, *text;
    size_t len;
    mode_t mode;
    bool append, durable;
    int rc;
    struct err e;
};

/* A line that did not fit leaves nothing behind, or the next one would be glued to it. When another
 * process has appended meanwhile it stays: its line must not be cut. */
static void
take_back(int fd, ssize_t written)
{
    struct stat st;
    off_t end = lseek(fd, 0, SEEK_CUR);
    if (written > 0 && end >= written && fstat(fd, &st) == 0 && st.st_size == end &&
        ftruncate(fd, end - written) < 0)
        return; /* the write's own failure is told */
}

/* One write, so that lines of several processes do not mix. */
static int
append_line(const struct fs_write *w, struct err *e)
{
    int fd = open(w->path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_sys(e, errno, "open %s", w->path);
    int rc = 0;
    ssize_t n = write(fd, w->text, w->len);
    if (n != (ssize_t)w->len) {
        rc = err_sys(e, n < 0 ? errno : ENOSPC, "write %s", w->path);
        take_back(fd, n);
    } else if (w->durable && fdatasync(fd) < 0)
        rc = err_sys(e, errno, "flush %s", w->path);
    if (close(fd) < 0 && rc == 0)
        rc = err_sys(e, errno, "close %s", w->path);
    return rc;
}

static void
fs_write_run(struct job_self *self, void *arg)
{
    struct fs_write *w = arg;
    (void)self;
    w->rc = w->append ? append_line(w, &w->e)
                      : io_write_durable(w->path, w->text, w->len, w->mode, &w->e);
}

static void
fs_write_free(struct fs_write *w)
{
    free(w->path);
    free(w->text);
    free(w);
}

static void
fs_write_done(void *arg)
{
    struct fs_write *w = arg;
    w->rt->jobs--;
    wait_end(&w->wait, w->rc ? push_error : NULL, &w->e);
    fs_write_free(w);
}

/* What is being written is written; by force the task just does not wait for it. */
static bool
fs_write_cancel(struct wait *w, bool force)
{
    (void)w;
    return force;
}

/* The task that can wait for a write. One that was cancelled, or that runs while the program ends,
 * writes at once: it does so to leave things in order. */
static struct task *
fs_write_task(lua_State *L)
{
    struct task *t = runtime_of(L)->current;
    return t && t->co == L && !t->cancelled && !t->rt->closing ? t : NULL;
}

/* Writes the text on top of the stack to the path at 1, as `given` says. */
static int
fs_write(lua_State *L, const struct fs_write *given)
{
    struct fs_write *w = mem_alloc(sizeof(*w));
    struct task *t = fs_write_task(L);
    struct job *job;
    *w = *given;
    const char *text = lua_tolstring(L, -1, &w->len);
    w->path = mem_strdup(lua_tostring(L, 1));
    w->text = mem_alloc(w->len + 1);
    memcpy(w->text, text, w->len);
    w->wait.cancel = fs_write_cancel;
    w->wait.what = "a file to be written";
    struct job_spec spec = {.run = fs_write_run, .done = fs_write_done, .arg = w};
    if (t && (w->durable || !w->append) && task_enter(L, "write_file", &t) == 0 &&
        job_start(&job, t->rt->loop, &spec, &w->e) == 0) {
        w->rt = t->rt;
        w->rt->jobs++;
        return task_wait(L, t, &w->wait, -1, 0);
    }
    fs_write_run(NULL, w);
    struct err e = w->e;
    int rc = w->rc;
    fs_write_free(w);
    return push_ok(L, rc, &e);
}

/* mr.write_file(path, text, mode?) -> true, or nil, err */
static int
l_write_file(lua_State *L)
{
    check_path(L, 1);
    luaL_checkstring(L, 2);
    struct fs_write w = {.mode = check_mode(L, 3, "0600")};
    lua_settop(L, 2);
    return fs_write(L, &w);
}

/* mr.append_file(path, text, durable?) -> true, or nil, err */
static int
l_append_file(lua_State *L)
{
    check_path(L, 1);
    luaL_checkstring(L, 2);
    struct fs_write w = {.append = true, .durable = lua_toboolean(L, 3)};
    lua_settop(L, 2);
    lua_pushliteral(L, "\n");
    lua_concat(L, 2);
    return fs_write(L, &w);
}

/* mr.make_dir(path, mode?) -> true, or nil, err */
static int
l_make_dir(lua_State *L)
{
    struct err e;
    const char *path = check_path(L, 1);
    return push_ok(L, io_make_dirs(path, check_mode(L, 2, "0700"), &e), &e);
}

static int
alphabetical(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

struct names {
    char **list;
    size_t count;
};

static int
read_names(struct names *names, const char *path, struct err *e)
{
    DIR *dir = opendir(path);
    if (!dir)
        return err_sys(e, errno, "open %s", path);
    struct dirent *entry;
    while (errno = 0, (entry = readdir(dir))) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        names->list = mem_realloc(names->list, (names->count + 1) * sizeof(*names->list));
        names->list[names->count++] = mem_strdup(entry->d_name);
    }
    int rc = errno ? err_sys(e, errno, "read %s", path) : 0;
    closedir(dir);
    return rc;
}

/* mr.list_dir(path) -> names, or nil, err */
static int
l_list_dir(lua_State *L)
{
    const char *path = check_path(L, 1);
    struct names names = {0};
    struct err e;
    int rc = read_names(&names, path, &e);
    if (names.count)
        qsort(names.list, names.count, sizeof(*names.list), alphabetical);
    lua_createtable(L, (int)names.count, 0);
    for (size_t i = 0; i < names.count; i++) {
        lua_pushstring(L, names.list[i]);
        lua_rawseti(L, -2, (int)i + 1);
        free(names.list[i]);
    }
    free(names.list);
    return rc ? error_return(L, &e) : 1;
}

/* mr.stat(path) -> {kind, size, mode, mtime_s, uid}, or nil, err */
static int
l_stat(lua_State *L)
{
    const char *path = check_path(L, 1);
    struct stat st;
    struct err e;
    if (stat(path, &st) < 0) {
        err_sys(&e, errno, "%s", path);
        return error_return(L, &e);
    }
    char mode[8];
    snprintf(mode, sizeof(mode), "%04o", (unsigned)(st.st_mode & 07777));
    lua_createtable(L, 0, 5);
    set_text(L, "kind", S_ISREG(st.st_mode) ? "file" : S_ISDIR(st.st_mode) ? "dir" : "other");
    set_number(L, "size", (double)st.st_size);
    set_text(L, "mode", mode);
    set_number(L, "mtime_s", (double)st.st_mtim.tv_sec + (double)st.st_mtim.tv_nsec / 1e9);
    set_number(L, "uid", (double)st.st_uid);
    return 1;
}

/* mr.remove_file(path) -> true, or nil, err */
static int
l_remove_file(lua_State *L)
{
    const char *path = check_path(L, 1);
    struct err e;
    return push_ok(L, unlink(path) < 0 ? err_sys(&e, errno, "remove %s", path) : 0, &e);
}

/* mr.rename(from, to) -> true, or nil, err */
static int
l_rename(lua_State *L)
{
    const char *from = check_path(L, 1), *to = check_path(L, 2);
    struct err e;
    return push_ok(L, io_rename_durable(from, to, &e), &e);
}

/* mr.real_path(path) -> path, or nil, err */
static int
l_real_path(lua_State *L)
{
    const char *path = check_path(L, 1);
    char *real = NULL;
    struct err e;
    if (path_canonical(&real, path, &e))
        return error_return(L, &e);
    lua_pushstring(L, real);
    free(real);
    return 1;
}

/* mr.lock_file(path) -> Lock, or nil, err */
static int
l_lock_file(lua_State *L)
{
    const char *path = check_path(L, 1);
    struct lock *lock = class_new(L, LOCK, sizeof(*lock));
    struct err e;
    lock->fd = -1;
    if (io_lock(&lock->fd, path, &e)) {
        lock->fd = -1;
        return error_return(L, &e);
    }
    return 1;
}

/* Lock:close() */
static int
l_unlock(lua_State *L)
{
    struct lock *lock = luaL_checkudata(L, 1, LOCK);
    if (lock->fd >= 0)
        io_unlock(lock->fd);
    lock->fd = -1;
    return 0;
}

void
lock_register(lua_State *L)
{
    static const luaL_Reg methods[] = {{"close", l_unlock}, {NULL, NULL}};
    class_register(L, LOCK, methods, l_unlock);
}

void
fs_functions(lua_State *L)
{
    static const luaL_Reg functions[] = {{"read_file", l_read_file},
                                         {"write_file", l_write_file},
                                         {"append_file", l_append_file},
                                         {"make_dir", l_make_dir},
                                         {"list_dir", l_list_dir},
                                         {"stat", l_stat},
                                         {"remove_file", l_remove_file},
                                         {"rename", l_rename},
                                         {"real_path", l_real_path},
                                         {"lock_file", l_lock_file},
                                         {NULL, NULL}};
    luaL_setfuncs(L, functions, 0);
}
