/*
 * Who holds a lock file of ours, and the end of one that hangs with it.
 *
 * Nobody is ended who is not proven to be an agent of ours: the same program, with that very file open.
 * Any thread; Linux's /proc.
 */
#ifndef AGENT_HOLDER_H
#define AGENT_HOLDER_H

#include <stdbool.h>
#include <stdint.h>

/* The process that holds the file's flock, 0 when nobody does or it cannot be told: where processes are
 * hidden, or the file system has other device numbers than its files. */
int holder_of(const char *path);

/* Kills exactly the process (pid, start), if it is proven; whether it did. */
bool holder_end(int pid, uint64_t start, const char *path);

/* Kills the holder if somebody has stopped it: what it holds it keeps until it is woken, which may be
 * never. This process is left alone; whether it did. */
bool holder_end_stopped(const char *path);

#endif
