/*
 * Connection strings of libpq's keyword form, as primary_conninfo holds them. Any thread.
 */
#ifndef AGENT_CONNINFO_H
#define AGENT_CONNINFO_H

struct err;
struct str;

/* Appends `conninfo` with `key` set to `value`: replaced where it stands, else added. ERR_FORMAT when the text
 * is no such string. */
int conninfo_set(struct str *out, const char *conninfo, const char *key, const char *value,
                 struct err *e);

#endif
