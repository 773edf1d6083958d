#include "deliver.h"

#include "moonrise/base/err.h"
#include "moonrise/base/io.h"
#include "moonrise/base/path.h"
#include "moonrise/base/str.h"
#include "moonrise/pg/lsn.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define COPY_BYTES (1u << 20)

static int
is_whole_segment(const struct dirent *entry)
{
    size_t len = strlen(entry->d_name);
    return len == WAL_NAME_BYTES - 1 && strspn(entry->d_name, "0123456789ABCDEF") == len;
}

static int
copy_bytes(int to, int from, struct err *e)
{
    uint8_t *bytes = mem_alloc(COPY_BYTES);
    uint64_t at = 0;
    ssize_t n;
    int rc = 0;
    while (rc == 0 && (n = io_pread_full(from, bytes, COPY_BYTES, at, e)) != 0) {
        rc = n < 0 ? (int)n : io_pwrite_full(to, bytes, (size_t)n, at, e);
        at += n > 0 ? (uint64_t)n : 0;
    }
    free(bytes);
    return rc < 0 ? rc : fsync(to) < 0 ? err_sys(e, errno, "flush") : 0;
}

/* Under another name until it is durable. What a killed run leaves of that goes with the next recovery: all of
 * pg_wal is removed then. */
static int
copy_file(const char *from, const char *to, struct err *e)
{
    struct stat st;
    char *half = mem_printf("%s.moonrise", to);
    int in = open(from, O_RDONLY | O_CLOEXEC), out = -1;
    int rc = in < 0 || fstat(in, &st) < 0 ? err_sys(e, errno, "%s", from) : 0;
    if (rc == 0) {
        out = open(half, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, st.st_mode & 0777);
        rc = out < 0 ? err_sys(e, errno, "%s", half) : copy_bytes(out, in, e);
        if (rc < 0)
            err_wrap(e, "%s", half);
    }
    if (rc == 0 && rename(half, to) < 0)
        rc = err_sys(e, errno, "rename %s", half);
    if (rc < 0 && out >= 0)
        unlink(half);
    if (out >= 0)
        close(out);
    if (in >= 0)
        close(in);
    free(half);
    return rc;
}

static int
move_file(bool *copied, const char *from, const char *to, struct err *e)
{
    *copied = false;
    if (rename(from, to) == 0)
        return 0;
    if (errno != EXDEV)
        return err_sys(e, errno, "rename %s to %s", from, to);
    *copied = true;
    return copy_file(from, to, e);
}

static int
mark_archived(const char *pg_wal, const char *name, struct err *e)
{
    char *path = mem_printf("%s/archive_status/%s.done", pg_wal, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    int rc = fd < 0 ? err_sys(e, errno, "%s", path) : 0;
    if (fd >= 0)
        close(fd);
    free(path);
    return rc;
}

static int
deliver(const char *from, const char *pg_wal, const char *name, struct err *e)
{
    char *here = path_join(from, name), *there = path_join(pg_wal, name);
    bool copied;
    int rc = mark_archived(pg_wal, name, e);
    if (rc == 0)
        rc = move_file(&copied, here, there, e);
    /* Its copy has to be found after a crash before it may go. */
    if (rc == 0 && copied && (rc = io_fsync_dir(pg_wal, e)) == 0)
        unlink(here);
    free(here);
    free(there);
    return rc;
}

int
deliver_segments(const char *from, const char *pg_wal, struct err *e)
{
    struct dirent **names;
    char *status = path_join(pg_wal, "archive_status");
    int count = scandir(from, &names, is_whole_segment, alphasort);
    int rc = count < 0 ? err_sys(e, errno, "%s", from) : io_make_dirs(status, 0700, e);
    for (int i = 0; i < count; i++) {
        if (rc == 0)
            rc = deliver(from, pg_wal, names[i]->d_name, e);
        free(names[i]);
    }
    if (count >= 0)
        free(names);
    if (rc == 0)
        rc = io_fsync_dir(status, e);
    if (rc == 0)
        rc = io_fsync_dir(pg_wal, e);
    free(status);
    return rc;
}
