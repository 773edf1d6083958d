#include "moonrise/base/err.h"
#include "moonrise/base/io.h"
#include "moonrise/base/path.h"
#include "order.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define PROBE_BYTES 8192

/* A file without a name needs no cleaning up, and no copy of the directory ever meets it. Where the file
 * system has no such files, one that loses its name at once. */
static int
open_probe(const char *dir, struct err *e)
{
    int fd = open(dir, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
    if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL)) {
        char *path = path_join(dir, "moonrise.probe");
        fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        if (fd >= 0)
            unlink(path);
        free(path);
    }
    return fd < 0 ? err_sys(e, errno, "a file in %s", dir) : fd;
}

/* What a full, broken or read-only disk refuses. */
static int
probe_write(const char *dir, struct err *e)
{
    static const char block[PROBE_BYTES] = "moonrise";
    int fd = open_probe(dir, e);
    if (fd < 0)
        return fd;
    int rc = io_pwrite_full(fd, block, sizeof block, 0, e);
    if (rc < 0)
        err_wrap(e, "a file in %s", dir);
    else if (fdatasync(fd) != 0)
        rc = err_sys(e, errno, "flush a file in %s", dir);
    close(fd);
    return rc;
}

static bool
is_link(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0 && S_ISLNK(st.st_mode);
}

/* From a job's thread: a disk that hangs holds its job only. */
int
op_disk(struct order *o, struct err *e)
{
    struct err why = {0};
    (void)e;
    char *wal = order_path(o, "pg_wal");
    int rc = probe_write(o->datadir, &why);
    if (rc == 0 && is_link(wal))
        rc = probe_write(wal, &why);
    message_set_bool(o->result, "writable", rc == 0);
    if (rc < 0)
        message_set_text(o->result, "disk_error", why.message);
    free(wal);
    return 0;
}
