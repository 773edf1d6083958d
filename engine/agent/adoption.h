/*
 * moonrise.before: the note of an adoption, beside an instance that moonrise did not make. It holds the
 * adoption's identifier and what ALTER SYSTEM had said until then. A directory that has it is never removed,
 * and given back only by that identifier: an adoption that was interrupted may be taken back long after
 * somebody else has adopted the instance anew.
 */
#ifndef AGENT_ADOPTION_H
#define AGENT_ADOPTION_H

#include <stdbool.h>

struct conf;
struct err;
struct message;
struct order;

/* Writes the note of args.adoption. One that is there stays. ERR_REFUSED when it is another adoption's. */
int adoption_keep(const struct order *o, struct err *e);

/* 0 when the note is args.adoption's. ERR_REFUSED when it is another's, ERR_NOTFOUND without one. */
int adoption_check(const struct order *o, struct err *e);

/* Reads what ALTER SYSTEM had said. *out is empty at first. ERR_NOTFOUND, ERR_FORMAT, ... */
int adoption_before(struct conf *out, const struct order *o, struct err *e);

/* Whether there is a note. */
bool adoption_noted(const char *datadir);

/* Sets `adoption` to the note's identifier, if there is one. */
void adoption_tell(struct message *out, const char *datadir);

/* Removes the note. */
int adoption_forget(const struct order *o, struct err *e);

#endif
