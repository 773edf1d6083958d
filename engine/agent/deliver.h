/*
 * Puts received WAL where a server looks for it. From a job's thread.
 */
#ifndef AGENT_DELIVER_H
#define AGENT_DELIVER_H

struct err;

/* Moves every whole segment of a plain directory of received WAL (moonrise/stream/stream.h) to `pg_wal`, the oldest
 * first, also to another file system, and marks it as archived, as pg_basebackup does: its source's archive
 * has it. What is not whole stays. A segment is under its name only once all of it is durable; one that is there
 * already, a recycled file or the same WAL from the mirror's own receiver, is replaced. Durable when it returns.
 * ERR_SPACE, ERR_PERMISSION, ERR_IO. */
int deliver_segments(const char *from, const char *pg_wal, struct err *e);

#endif
