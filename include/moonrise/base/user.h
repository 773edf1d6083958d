/*
 * The user that this process runs as, by the system's user database: it may be a directory service that
 * does not answer. Any thread.
 */
#ifndef MOONRISE_BASE_USER_H
#define MOONRISE_BASE_USER_H

struct err;

struct user {
    char *name, *home;
};

/* Looks up the effective user. ERR_NOTFOUND when the system knows no such one; ERR_IO, ... when it cannot be
 * told: then *out is empty. Free with user_done. */
int user_read(struct user *out, struct err *e);

void user_done(struct user *u);

#endif
