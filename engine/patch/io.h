/*
 * One file of the target while it is being copied, or of the local source: reading and writing it the
 * way that was measured to be best (two cores shared with others, virtual disk, 3.4 GB on each side).
 *
 * Large pieces are written past the page cache (O_DIRECT): dd wrote 1.8 GB/s so, and 0.35 GB/s through the
 * cache with the flush. Scattered blocks go through it and are flushed together, since the kernel writes
 * many of them at once: 0.41 to 0.48 s against 0.61 to 0.81 s for one per cent of the blocks.
 *
 * What is in the page cache is read from there. What is not is read past it: no faster, the disk is the
 * limit either way, but for 0.6 s of system time instead of 4.3, and the cache is left to the servers.
 * mincore(2) tells which (an RWF_NOWAIT read would start reading ahead). Several threads at once.
 */
#ifndef MOONRISE_PATCH_IO_H
#define MOONRISE_PATCH_IO_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct err;

struct patch_io {
    int fd;
    atomic_int direct_fd; /* opened at the first write that can use it; -2: it cannot be had */
    atomic_bool buffered; /* something was written through the cache */
    uint64_t size;        /* when it was opened */
    void *map;            /* never read: only to ask what is in the cache; NULL for small files */
};

void patch_io_init(struct patch_io *io);

/* Opens a file of the target for reading and writing, making it when it is missing, emptying it with
 * `empty`. No link is followed. ERR_IO, ERR_SPACE, ERR_PERMISSION. */
int patch_io_open(struct patch_io *io, int dir_fd, const char *name, bool empty, struct err *e);

/* Opens a file of the source for reading. ERR_NOTFOUND when it is gone or no regular file any more. */
int patch_io_open_source(struct patch_io *io, int dir_fd, const char *name, struct err *e);

/* A piece of a file, and where to put it: aligned to PATCH_BUFFER_ALIGN, with room for
 * PATCH_RANGE_BYTES, since a read past the cache is rounded up. */
struct patch_piece {
    uint8_t *buf;
    uint32_t len;
    uint64_t offset;
};

/* Reads a piece; *got is less than its length at the end of the file only. ERR_IO. */
int patch_io_read(struct patch_io *io, const struct patch_piece *p, uint32_t *got, struct err *e);

/* Writes all of it. ERR_IO, ERR_SPACE. */
int patch_io_write(struct patch_io *io, const uint8_t *buf, uint32_t len, uint64_t offset,
                   struct err *e);

/* Sets the file's size. ERR_IO, ERR_SPACE. */
int patch_io_resize(struct patch_io *io, uint64_t size, struct err *e);

/* Makes the file at least `size` bytes long, with zeros that have their place on the disk: threads can write
 * into it side by side, which they cannot where it has to grow or to be allocated (four threads, 3.4 GB: 2.1
 * to 2.3 s against 3.0 to 3.7 s), and a disk that is too small is found out early.
 *
 * Holes of the source are not kept. PostgreSQL makes none: it extends a relation by writing zeros, so that a
 * full disk fails the statement that extends it. A hole would move that failure to the checkpoint that
 * writes the page out, which retries for ever or panics. ERR_IO, ERR_SPACE. */
int patch_io_allocate(struct patch_io *io, uint64_t size, struct err *e);

/* Makes what is read from now on come from the disk: writes out what is dirty and drops the file from the
 * cache. */
void patch_io_forget(struct patch_io *io);

/* Starts writing out what is in the cache, without waiting. */
void patch_io_start_flush(struct patch_io *io);

/* Hands the descriptor over and closes the rest. */
int patch_io_take(struct patch_io *io);

void patch_io_close(struct patch_io *io);

#endif
