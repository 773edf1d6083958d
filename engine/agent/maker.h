/*
 * moonrise.made: which run of init has made a data directory. One that was interrupted may be taken back long
 * after somebody has put another directory in the place of its own, and what has another maker, or none, is
 * not removed. The note is no part of a copy, and stays.
 */
#ifndef AGENT_MAKER_H
#define AGENT_MAKER_H

struct err;
struct message;
struct order;

/* Writes args.maker, when it is given, into a directory that has nothing in it yet. ERR_IO, ERR_SPACE, ... */
int maker_note(const struct order *o, struct err *e);

/* 0 when args.maker made the directory, or when there is none. ERR_REFUSED when it is another's. */
int maker_check(const struct order *o, struct err *e);

/* Sets `maker` to who made the directory, if that is known. */
void maker_tell(struct message *out, const char *datadir);

#endif
