#include "io.h"

#include "moonrise/base/err.h"
#include "moonrise/patch/source.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define IO_NO_DIRECT (-2)
/* Smaller pieces are quicker through the page cache. */
#define IO_DIRECT_MIN_BYTES 65536u
#define IO_SAMPLES          16u

void
patch_io_init(struct patch_io *io)
{
    io->fd = -1;
    atomic_init(&io->direct_fd, -1);
    atomic_init(&io->buffered, false);
    io->size = 0;
    io->map = NULL;
}

static int
io_opened(struct patch_io *io, struct err *e)
{
    struct stat st;
    if (io->fd < 0)
        return err_sys(e, errno, "cannot open it");
    if (fstat(io->fd, &st) != 0)
        return err_sys(e, errno, "cannot look at it");
    if (!S_ISREG(st.st_mode))
        return err_set(e, ERR_NOTFOUND, "no regular file");
    io->size = (uint64_t)st.st_size;
    if (io->size >= PATCH_RANGE_BYTES / 2) {
        void *map = mmap(NULL, io->size, PROT_READ, MAP_SHARED, io->fd, 0);
        io->map = map == MAP_FAILED ? NULL : map;
    }
    return 0;
}

int
patch_io_open(struct patch_io *io, int dir_fd, const char *name, bool empty, struct err *e)
{
    int flags = O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC | (empty ? O_TRUNC : 0);
    io->fd = openat(dir_fd, name, flags, 0600);
    return io_opened(io, e);
}

int
patch_io_open_source(struct patch_io *io, int dir_fd, const char *name, struct err *e)
{
    io->fd = openat(dir_fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (io->fd < 0 && (errno == ELOOP || errno == ENXIO))
        return err_set(e, ERR_NOTFOUND, "no regular file");
    return io_opened(io, e);
}

/* A second description of the same file: the flag must not change under another thread's buffered
 * write. Two threads may open it at once; one of them wins. */
static int
io_direct(struct patch_io *io)
{
    int fd = atomic_load(&io->direct_fd);
    if (fd != -1)
        return fd;
    char path[40];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", io->fd);
    int mine = open(path, O_DIRECT | (fcntl(io->fd, F_GETFL) & O_ACCMODE) | O_CLOEXEC);
    if (atomic_compare_exchange_strong(&io->direct_fd, &fd, mine < 0 ? IO_NO_DIRECT : mine))
        return mine < 0 ? IO_NO_DIRECT : mine;
    if (mine >= 0)
        close(mine);
    return fd;
}

/* Whether next to nothing of the range is in the page cache, by some of its pages: to look for each of them
 * takes a tenth of the time of reading it from there, and so do sixteen calls. Where it is cached two say so. */
static bool
io_is_cold(const struct patch_io *io, uint32_t len, uint64_t offset)
{
    uint32_t page = (uint32_t)sysconf(_SC_PAGESIZE);
    uint32_t cached = 0;
    if (!io->map || len < IO_DIRECT_MIN_BYTES || offset >= io->size)
        return false;
    uint64_t left = io->size - offset;
    uint32_t count = ((left < len ? (uint32_t)left : len) + page - 1) / page;
    uint32_t samples = count < IO_SAMPLES ? count : IO_SAMPLES;
    for (uint32_t i = 0; i < samples; i++) {
        unsigned char in;
        size_t at = (size_t)(count * i / samples) * page;
        if (mincore((uint8_t *)io->map + offset + at, page, &in) != 0)
            return false;
        cached += in & 1;
        if (cached * 8 >= samples)
            return false;
    }
    return true;
}

int
patch_io_read(struct patch_io *io, const struct patch_piece *p, uint32_t *got, struct err *e)
{
    int direct = io_is_cold(io, p->len, p->offset) ? io_direct(io) : IO_NO_DIRECT;
    uint32_t aligned = (p->len + PATCH_BUFFER_ALIGN - 1) / PATCH_BUFFER_ALIGN * PATCH_BUFFER_ALIGN;
    uint32_t done = 0;
    while (done < p->len) {
        bool past = direct >= 0 && done % PATCH_BUFFER_ALIGN == 0;
        uint32_t want = (past ? aligned : p->len) - done;
        ssize_t n = pread(past ? direct : io->fd, p->buf + done, want, (off_t)(p->offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EINVAL && past) {
            direct = IO_NO_DIRECT; /* a file system that opens for direct I/O and then refuses it */
            continue;
        }
        if (n < 0)
            return err_sys(e, errno, "cannot read it at %llu",
                           (unsigned long long)p->offset + done);
        if (n == 0)
            break;
        done += (uint32_t)n;
    }
    *got = done < p->len ? done : p->len;
    return 0;
}

int
patch_io_write(struct patch_io *io, const uint8_t *buf, uint32_t len, uint64_t offset,
               struct err *e)
{
    bool fits = len >= IO_DIRECT_MIN_BYTES && (offset | len) % PATCH_BUFFER_ALIGN == 0;
    int fd = fits ? io_direct(io) : IO_NO_DIRECT;
    uint32_t done = 0;
    while (done < len) {
        bool direct = fd >= 0 && done % PATCH_BUFFER_ALIGN == 0;
        if (!direct)
            atomic_store_explicit(&io->buffered, true, memory_order_relaxed);
        ssize_t n = pwrite(direct ? fd : io->fd, buf + done, len - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EINVAL && direct) {
            fd = IO_NO_DIRECT;
            continue;
        }
        if (n <= 0)
            return err_sys(e, n == 0 ? ENOSPC : errno, "cannot write it at %llu",
                           (unsigned long long)offset + done);
        done += (uint32_t)n;
    }
    return 0;
}

int
patch_io_resize(struct patch_io *io, uint64_t size, struct err *e)
{
    while (ftruncate(io->fd, (off_t)size) != 0)
        if (errno != EINTR)
            return err_sys(e, errno, "cannot make it %llu bytes long", (unsigned long long)size);
    return 0;
}

int
patch_io_allocate(struct patch_io *io, uint64_t size, struct err *e)
{
    int rc;
    do
        rc = fallocate(io->fd, 0, 0, (off_t)size);
    while (rc != 0 && errno == EINTR);
    if (rc == 0)
        return 0;
    if (errno == EOPNOTSUPP || errno == ENOSYS)
        return patch_io_resize(io, size, e);
    return err_sys(e, errno, "cannot make room for %llu bytes", (unsigned long long)size);
}

/* No error matters here: the pages of a failed write are dropped as well, and then the disk tells, or they
 * are dirty still, and the flush at the end writes them again. No fsync: it would wait for the journal, once
 * for every file. */
void
patch_io_forget(struct patch_io *io)
{
    sync_file_range(io->fd, 0, 0,
                    SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
                        SYNC_FILE_RANGE_WAIT_AFTER);
    posix_fadvise(io->fd, 0, 0, POSIX_FADV_DONTNEED);
}

void
patch_io_start_flush(struct patch_io *io)
{
    if (atomic_load_explicit(&io->buffered, memory_order_relaxed))
        sync_file_range(io->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
}

int
patch_io_take(struct patch_io *io)
{
    int fd = io->fd;
    io->fd = -1;
    patch_io_close(io);
    return fd;
}

void
patch_io_close(struct patch_io *io)
{
    if (io->map)
        munmap(io->map, io->size);
    int direct = atomic_load(&io->direct_fd);
    if (direct >= 0)
        close(direct);
    if (io->fd >= 0)
        close(io->fd);
    patch_io_init(io);
}
