/*
 * A note beside an instance that says whose it is: a file of settings in its data directory, one of which, the
 * key, is an identifier. Orders give theirs in the argument of that name. Any thread.
 */
#ifndef AGENT_NOTE_H
#define AGENT_NOTE_H

#include <stdbool.h>

struct conf;
struct err;
struct message;

struct note {
    const char *file; /* its name in the data directory */
    const char *key;
};

/* Reads all of it. *out is empty at first. ERR_NOTFOUND, ERR_FORMAT, ERR_IO. */
int note_read(struct conf *out, const struct note *n, const char *datadir, struct err *e);

/* Whether what was read names `id`, which is not empty. */
bool note_names(const struct conf *c, const struct note *n, const char *id);

/* Sets the key of the message to the identifier, if there is a note that names one. */
void note_tell(struct message *out, const struct note *n, const char *datadir);

#endif
