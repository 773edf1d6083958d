#include "moonrise/base/err.h"
#include "moonrise/base/io.h"
#include "moonrise/base/path.h"
#include "moonrise/pg/control.h"
#include "moonrise/wal/record.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

/* Opens the file anew for each page: the few pages of one record do not deserve a cache. */
static int
read_page_of_dir(const struct wal_source *s, lsn_t page_lsn, void *buf, struct err *e)
{
    char name[WAL_NAME_BYTES];
    char *path =
        path_join(s->place, wal_segment_name(name, s->timeline, page_lsn, s->segment_bytes));
    int rc = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        rc = err_sys(e, errno, "open %s", path);
    } else {
        ssize_t n = io_pread_full(fd, buf, s->page_bytes, page_lsn % s->segment_bytes, e);
        close(fd);
        if (n < 0) {
            rc = (int)n;
            err_wrap(e, "%s", path);
        } else if ((size_t)n < s->page_bytes) {
            rc = err_set(e, ERR_FORMAT, "%s ends early", path);
        }
    }
    free(path);
    return rc;
}

void
wal_source_dir(struct wal_source *s, const char *wal_dir)
{
    s->read_page = read_page_of_dir;
    s->place = wal_dir;
}

static int
checkpoint_end(struct wal_record *out, const struct control *c, const char *wal_dir, struct err *e)
{
    struct wal_source source = {
        .system_identifier = c->system_identifier,
        .timeline = c->timeline,
        .page_bytes = c->wal_block_bytes,
        .segment_bytes = c->wal_segment_bytes,
    };
    wal_source_dir(&source, wal_dir);
    int rc = wal_record_read(out, &source, c->checkpoint_lsn, e);
    if (rc < 0)
        return rc;
    if (out->rmgr != WAL_RMGR_XLOG || out->info != WAL_XLOG_CHECKPOINT_SHUTDOWN)
        return err_set(e, ERR_FORMAT, "the last checkpoint is no shutdown checkpoint");
    return 0;
}

int
wal_shutdown_end(struct wal_record *out, const char *datadir, struct err *e)
{
    struct control c;
    char *path = path_join(datadir, "global/pg_control");
    int rc = control_read(&c, path, NULL, e);
    free(path);
    if (rc < 0)
        return rc;
    if (c.state != CONTROL_SHUTDOWNED)
        return err_set(e, ERR_REFUSED, "%s: the control file says \"%s\", not \"shut down\"",
                       datadir, control_state_name(c.state));
    char *wal_dir = path_join(datadir, "pg_wal");
    rc = checkpoint_end(out, &c, wal_dir, e);
    free(wal_dir);
    if (rc < 0)
        err_wrap(e, "%s", datadir);
    return rc;
}
