/*
 * Files: read whole, written durably, locked. Everything blocks; call it from a job or at startup, not
 * from the loop for anything large. Any thread. Error messages name the path, except those of
 * io_pread_full and io_pwrite_full, which know only a descriptor: wrap them.
 */
#ifndef MOONRISE_BASE_IO_H
#define MOONRISE_BASE_IO_H

#include "moonrise/base/str.h"

#include <stdint.h>
#include <sys/types.h>

struct err;

/* Replaces *out by the content of a file. ERR_NOTFOUND, ERR_PERMISSION, ERR_IO, ERR_LIMIT (it is longer
 * than `limit` bytes). On failure *out is empty. */
int io_read_file(struct str *out, const char *path, size_t limit, struct err *e);

/* Makes `path` hold exactly these bytes, or, after a failure or crash at any point, what it held
 * before: written to PATH.tmp beside it (removed when this fails), flushed, renamed, directory
 * flushed. `mode` is applied regardless of the umask. Of several at the same time each writes
 * its own, and the last one holds. */
int io_write_durable(const char *path, const void *bytes, size_t len, mode_t mode, struct err *e);

/* Reads `len` bytes at `offset`; fewer only at the end of the file. Returns the number read, or a
 * negative ERR_*. */
ssize_t io_pread_full(int fd, void *buf, size_t len, uint64_t offset, struct err *e);

/* Writes all of `len` bytes at `offset`. ERR_SPACE, ERR_IO. */
int io_pwrite_full(int fd, const void *buf, size_t len, uint64_t offset, struct err *e);

/* How many bytes may still be written to the file system of a file or directory. ERR_NOTFOUND, ERR_IO. */
int io_free_bytes(uint64_t *out, const char *path, struct err *e);

/* Flushes a file (or directory) that is named. */
int io_fsync_file(const char *path, struct err *e);
int io_fsync_dir(const char *path, struct err *e);

/* Renames and flushes the directories of both names. */
int io_rename_durable(const char *from, const char *to, struct err *e);

/* Unlinks and flushes the directory. ERR_NOTFOUND when it is not there. */
int io_unlink_durable(const char *path, struct err *e);

/* Makes a directory and its missing parents with `mode`; each new one is flushed into its parent. A
 * directory that exists already is fine and keeps its mode; ERR_EXISTS when something else is there. */
int io_make_dirs(const char *path, mode_t mode, struct err *e);

/* Takes an exclusive flock on a file (created with mode 0600, close-on-exec) and writes our process id
 * into it. *fd_out is released with io_unlock or by the end of the process. ERR_BUSY at once when
 * somebody holds it; the message names the holder's process id. The file must never be renamed or
 * replaced: a lock on a replaced file locks nothing. */
int io_lock(int *fd_out, const char *path, struct err *e);
void io_unlock(int fd);

/* The process id in a lock file, 0 when there is none. Says nothing about whether it still holds it. */
pid_t io_lock_holder(const char *path);

#endif
