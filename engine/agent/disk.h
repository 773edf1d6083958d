/*
 * Whether a data directory can be written. From a job's thread: a disk that hangs holds its job only.
 */
#ifndef AGENT_DISK_H
#define AGENT_DISK_H

struct order;

/* Tells `writable`, and `disk_error` when it is not: a block is written and flushed, in the directory and
 * where its pg_wal leads to. Nothing is left there, whenever this process is killed. */
void disk_tell(struct order *o);

#endif
