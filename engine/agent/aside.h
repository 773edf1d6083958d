/*
 * pg_control aside: what makes a directory impossible to start (SAFETY.md, rules 3 and 5).
 *
 * global/pg_control leaves global/ by one rename, as moonrise.control.moving, and is then kept in
 * moonrise.control behind a header of 512 bytes, so that no plain move back starts the server. Any thread;
 * the caller holds the epoch lock.
 */
#ifndef AGENT_ASIDE_H
#define AGENT_ASIDE_H

#include "moonrise/pg/control.h"

#include <stdbool.h>

struct err;

/* Moves it. The caller has proven the directory stopped; it is proven again after the move, and when
 * somebody has started it in between the file goes back at once. A directory without pg_control is fine.
 * ERR_RUNNING, ERR_IO, ERR_SPACE. */
int aside_move(const char *datadir, struct err *e);

/* Puts it back: for an order that changed nothing else. Nothing to do when it is not aside. */
int aside_restore(const char *datadir, struct err *e);

/* Removes what lies aside, once a new pg_control is in place. */
int aside_drop(const char *datadir, struct err *e);

/* The control data of a directory, wherever it lies; *aside says where. ERR_NOTFOUND, ERR_FORMAT ... */
int aside_read(struct control *out, bool *aside, const char *datadir, struct err *e);

#endif
