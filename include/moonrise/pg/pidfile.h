/*
 * postmaster.pid: who serves this data directory, or did.
 *
 * Format: src/include/utils/pidfile.h, PostgreSQL 10 and later; eight lines, of which the last ones are
 * added while the server starts. A negative process id in the first line is a standalone backend's (or an
 * agent's own lock). Any thread.
 */
#ifndef MOONRISE_PG_PIDFILE_H
#define MOONRISE_PG_PIDFILE_H

#include <stddef.h>
#include <stdint.h>

struct err;

struct pidfile {
    int pid;            /* never 0 */
    char *datadir;      /* "" when the line is missing, as for all texts here */
    int64_t start_s;    /* since 1970 */
    int port;           /* 0 when missing */
    char *socket_dir;   /* the first one */
    char *listen;       /* the first address */
    uint64_t shmem_key; /* of the System V segment; 0 when missing */
    uint64_t shmem_id;  /* valid when shmem_key is not 0 */
    char *status;       /* "starting", "stopping", "ready", "standby" without padding */
    int lines;          /* how many there were */
};

/* Parses the file's text. ERR_FORMAT when the first line is no process id or a number is none. */
int pidfile_parse(struct pidfile *out, const char *text, size_t len, struct err *e);

/* Reads DATADIR/postmaster.pid. ERR_NOTFOUND, ERR_FORMAT (an empty one too), ERR_PERMISSION, ERR_IO. */
int pidfile_read(struct pidfile *out, const char *datadir, struct err *e);

void pidfile_done(struct pidfile *p);

#endif
