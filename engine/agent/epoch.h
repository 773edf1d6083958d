/*
 * Epochs: which orders an instance has seen, and the lock they run under (SAFETY.md, rule 7).
 *
 * moonrise.lock is only ever flocked, never renamed. Its text names the holder:
 *     PID
 *     START EPOCH STEP ORDER
 * moonrise.epoch is a few name = 'value' lines, under 512 bytes, the last of which is the CRC-32C of those
 * before it. It is void when its system identifier or dbid are not this instance's: copies clone it. Any
 * thread.
 */
#ifndef AGENT_EPOCH_H
#define AGENT_EPOCH_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct err;

#define EPOCH_FILE_BYTES 512

/* What an order is compared by. */
struct claim {
    uint64_t epoch;
    uint32_t step;
    const char *op;
};

struct epoch {
    bool present;
    bool valid;   /* readable and, after epoch_judge, this instance's */
    char why[96]; /* when present and not valid */
    uint64_t epoch;
    uint32_t step;
    char order[16];
    uint64_t barred; /* orders of epochs up to this one are refused, although none was seen */
    bool marked;
    char reason[128];
    char sysid[24];
    int dbid;
    int content;
};

/* Reads moonrise.epoch; a missing or damaged one is no error (present, valid and why say it). ERR_IO,
 * ERR_PERMISSION. */
int epoch_read(struct epoch *out, const char *datadir, struct err *e);

/* Makes it void unless it belongs to this instance; sysid "" or dbid 0 are not compared. */
void epoch_judge(struct epoch *ep, const char *sysid, int dbid);

/* Writes it durably. ERR_IO, ERR_SPACE. */
int epoch_write(const struct epoch *ep, const char *datadir, struct err *e);

/* 0 when the claim may be carried out: it is not barred and newer than the last, or the very same order
 * (*repeat). ERR_STALE otherwise. */
int epoch_compare(const struct epoch *last, const struct claim *c, bool *repeat, struct err *e);

/* Takes the lock. A holder with an older claim that does not let go is killed once it is proven to be an
 * agent of ours; one in this very process is waited for. *fd is released with io_unlock. ERR_STALE (the
 * holder's claim is newer), ERR_BUSY, ERR_CANCELLED, ERR_IO. */
int epoch_lock(int *fd, const char *datadir, const struct claim *c, const atomic_bool *cancel,
               struct err *e);

#endif
