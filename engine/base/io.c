#include "moonrise/base/io.h"

#include "moonrise/base/err.h"
#include "moonrise/base/path.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

ssize_t
io_pread_full(int fd, void *buf, size_t len, uint64_t offset, struct err *e)
{
    size_t done = 0;
    while (done < len) {
        ssize_t n = pread(fd, (char *)buf + done, len - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_sys(e, errno, "read at %llu", (unsigned long long)(offset + done));
        if (n == 0)
            break;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

int
io_pwrite_full(int fd, const void *buf, size_t len, uint64_t offset, struct err *e)
{
    size_t done = 0;
    while (done < len) {
        ssize_t n = pwrite(fd, (const char *)buf + done, len - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return err_sys(e, n < 0 ? errno : ENOSPC, "write at %llu",
                           (unsigned long long)(offset + done));
        done += (size_t)n;
    }
    return 0;
}

/* The size that stat tells is only where to begin: files of /proc have none, others grow. */
static int
read_descriptor(struct str *out, int fd, const char *path, size_t limit, struct err *e)
{
    char chunk[16384];
    for (;;) {
        ssize_t n = read(fd, chunk, sizeof(chunk));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_sys(e, errno, "read %s", path);
        if (n == 0)
            return 0;
        if ((size_t)n > limit - out->len)
            return err_set(e, ERR_LIMIT, "%s is longer than %zu bytes", path, limit);
        str_append(out, chunk, (size_t)n);
    }
}

int
io_read_file(struct str *out, const char *path, size_t limit, struct err *e)
{
    str_clear(out);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_sys(e, errno, "open %s", path);
    int rc = read_descriptor(out, fd, path, limit, e);
    close(fd);
    if (rc < 0)
        str_clear(out);
    return rc;
}

static int
fsync_path(const char *path, int flags, struct err *e)
{
    int fd = open(path, flags | O_CLOEXEC);
    if (fd < 0)
        return err_sys(e, errno, "open %s", path);
    int rc = fsync(fd) < 0 ? err_sys(e, errno, "flush %s", path) : 0;
    close(fd);
    return rc;
}

int
io_free_bytes(uint64_t *out, const char *path, struct err *e)
{
    struct statvfs fs;
    if (statvfs(path, &fs) != 0)
        return err_sys(e, errno, "%s", path);
    *out = (uint64_t)fs.f_bavail * fs.f_frsize;
    return 0;
}

int
io_fsync_file(const char *path, struct err *e)
{
    return fsync_path(path, O_RDONLY, e);
}

int
io_fsync_dir(const char *path, struct err *e)
{
    return fsync_path(path, O_RDONLY | O_DIRECTORY, e);
}

static int
fsync_parent(const char *path, struct err *e)
{
    char *dir = path_dir(path);
    int rc = io_fsync_dir(dir, e);
    free(dir);
    return rc;
}

/* Whether `path` is still the name of the file that is open: another process may have renamed it. */
static bool
is_still(const char *path, int fd)
{
    struct stat named, opened;
    return lstat(path, &named) == 0 && fstat(fd, &opened) == 0 && named.st_ino == opened.st_ino &&
           named.st_dev == opened.st_dev;
}

/* Opens PATH.tmp for this thread alone, or a name of our own while another writes the same file: the
 * last one that renames wins, and neither sees the other's bytes. */
static int
open_beside(char **beside, const char *path, struct err *e)
{
    const int flags = O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW;
    *beside = mem_printf("%s.tmp", path);
    int fd = open(*beside, flags, 0600);
    if (fd >= 0 && (flock(fd, LOCK_EX | LOCK_NB) < 0 || !is_still(*beside, fd))) {
        close(fd);
        free(*beside);
        *beside = mem_printf("%s.%ld.tmp", path, (long)gettid());
        fd = open(*beside, flags, 0600);
    }
    return fd < 0 ? err_sys(e, errno, "create %s", *beside) : fd;
}

static int
fill_file(int fd, const char *path, const void *bytes, size_t len, struct err *e)
{
    int rc = 0;
    if (ftruncate(fd, 0) < 0)
        rc = err_sys(e, errno, "empty %s", path);
    if (rc == 0 && (rc = io_pwrite_full(fd, bytes, len, 0, e)) < 0)
        err_wrap(e, "%s", path);
    if (rc == 0 && fsync(fd) < 0)
        rc = err_sys(e, errno, "flush %s", path);
    return rc;
}

int
io_write_durable(const char *path, const void *bytes, size_t len, mode_t mode, struct err *e)
{
    char *beside;
    int fd = open_beside(&beside, path, e);
    int rc = fd < 0 ? fd : 0;
    if (rc == 0 && fchmod(fd, mode) < 0)
        rc = err_sys(e, errno, "set the mode of %s", beside);
    if (rc == 0)
        rc = fill_file(fd, beside, bytes, len, e);
    if (rc == 0 && rename(beside, path) < 0)
        rc = err_sys(e, errno, "rename %s to %s", beside, path);
    if (fd >= 0 && rc < 0)
        unlink(beside);
    if (fd >= 0 && close(fd) < 0 && rc == 0)
        rc = err_sys(e, errno, "close %s", path);
    if (rc == 0)
        rc = fsync_parent(path, e);
    free(beside);
    return rc;
}

int
io_rename_durable(const char *from, const char *to, struct err *e)
{
    if (rename(from, to) < 0)
        return err_sys(e, errno, "rename %s to %s", from, to);
    int rc = fsync_parent(to, e);
    return rc < 0 ? rc : fsync_parent(from, e);
}

int
io_unlink_durable(const char *path, struct err *e)
{
    if (unlink(path) < 0)
        return err_sys(e, errno, "remove %s", path);
    return fsync_parent(path, e);
}

static int
make_one_dir(const char *path, mode_t mode, struct err *e)
{
    struct stat st;
    if (stat(path, &st) == 0) {
        if (S_ISDIR(st.st_mode))
            return 0;
        return err_set(e, ERR_EXISTS, "%s exists and is not a directory", path);
    }
    if (mkdir(path, mode) < 0)
        /* Somebody may have made it in between, which is as good. */
        return errno == EEXIST ? 0 : err_sys(e, errno, "make directory %s", path);
    if (chmod(path, mode) < 0)
        return err_sys(e, errno, "set the mode of %s", path);
    return fsync_parent(path, e);
}

int
io_make_dirs(const char *path, mode_t mode, struct err *e)
{
    char *part = mem_strdup(path);
    int rc = 0;
    for (char *p = part; *p && rc == 0; p++) {
        if (*p != '/' || p == part)
            continue;
        *p = '\0';
        rc = make_one_dir(part, mode, e);
        *p = '/';
    }
    if (rc == 0)
        rc = make_one_dir(part, mode, e);
    free(part);
    return rc;
}

pid_t
io_lock_holder(const char *path)
{
    struct str text = STR_INIT;
    pid_t pid = 0;
    if (io_read_file(&text, path, 64, NULL) == 0)
        pid = (pid_t)strtol(text.data, NULL, 10);
    str_free(&text);
    return pid > 0 ? pid : 0;
}

static int
write_holder(int fd, const char *path, struct err *e)
{
    char text[32];
    int len = snprintf(text, sizeof(text), "%ld\n", (long)getpid());
    if (ftruncate(fd, 0) < 0)
        return err_sys(e, errno, "truncate %s", path);
    int rc = io_pwrite_full(fd, text, (size_t)len, 0, e);
    if (rc < 0)
        err_wrap(e, "%s", path);
    return rc;
}

int
io_lock(int *fd_out, const char *path, struct err *e)
{
    *fd_out = -1;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_sys(e, errno, "open %s", path);
    int rc = 0;
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        if (errno == EWOULDBLOCK)
            rc = err_set(e, ERR_BUSY, "%s is locked by process %ld", path,
                         (long)io_lock_holder(path));
        else
            rc = err_sys(e, errno, "lock %s", path);
    } else {
        rc = write_holder(fd, path, e);
    }
    if (rc < 0)
        close(fd);
    else
        *fd_out = fd;
    return rc;
}

void
io_unlock(int fd)
{
    /* Closing releases the lock: no child holds a copy, the descriptor is close-on-exec. But a fork that
     * has not yet called exec would, so it is released by name first. */
    flock(fd, LOCK_UN);
    close(fd);
}
