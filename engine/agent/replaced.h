/*
 * What a recovery to another place has left: the directory that an instance had before, or a copy that was
 * never finished. Either says by itself whose it is, and that nothing may be started from it. Any thread.
 */
#ifndef AGENT_REPLACED_H
#define AGENT_REPLACED_H

struct err;
struct order;

/* 0 when the directory is the order's instance, by args.sysid and args.dbid, and is marked as replaced or
 * half-made; or when there is nothing in it. ERR_REFUSED otherwise. */
int replaced_check(const struct order *o, struct err *e);

#endif
