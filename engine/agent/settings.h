/*
 * Moonrise's part of an instance's configuration, while no server writes it.
 *
 * moonrise.conf holds the cluster's settings and the place (port, sockets), postgresql.auto.conf what ALTER
 * SYSTEM changes: synchronous_standby_names, primary_conninfo, primary_slot_name. Both are in the data
 * directory; the configuration file, wherever that is (layout.h), only includes moonrise.conf as its last
 * line. Any thread.
 */
#ifndef AGENT_SETTINGS_H
#define AGENT_SETTINGS_H

#include "moonrise/pg/conf.h"

#include <stdbool.h>

struct err;
struct message;
struct str;

/* Settings of an instance, in their two files. */
struct settings {
    struct conf own;   /* moonrise.conf */
    struct conf auto_; /* postgresql.auto.conf */
};

/* Settings of place: they stay an instance's own whatever its source has. Ends with NULL. */
extern const char *const settings_place[];

/* Whether a setting lives in postgresql.auto.conf. */
bool settings_is_auto(const char *name);

/* Whether a setting says whose mirror an instance is, or where its replay ends: that is never taken over. */
bool settings_is_role(const char *name);

/* Reads both files of a directory; missing ones are empty. ERR_FORMAT, ERR_IO. Free with settings_done. */
int settings_read(struct settings *s, const char *datadir, struct err *e);

/* The same of their texts; NULL is a missing one. */
int settings_parse(struct settings *s, const struct str *own, const struct str *auto_,
                   struct err *e);

/* Sets what the object `settings` of the message says, and takes what goes to moonrise.conf out of
 * postgresql.auto.conf, which would win over it; with `false_removes` a false takes the setting out.
 * ERR_ARGUMENT. */
int settings_merge(struct settings *s, const struct message *args, bool false_removes,
                   struct err *e);

/* Writes both durably and makes postgresql.conf include moonrise.conf. */
int settings_write(const struct settings *s, const char *datadir, struct err *e);

/* Writes only postgresql.auto.conf: while the server runs, only where nobody can tell it by SQL. */
int settings_write_auto(const struct settings *s, const char *datadir, struct err *e);

/* Writes only moonrise.conf and the include line, beside a running server. */
int settings_write_own(const struct settings *s, const char *datadir, struct err *e);

/* Replaces moonrise's block in pg_hba.conf by args.hba, at the top where there is none; `whole`: the file
 * is nothing else. Nothing happens when there is no args.hba. ERR_ARGUMENT, ERR_IO. */
int settings_hba(const char *datadir, const struct message *args, bool whole, struct err *e);

/* Takes away all that the above have written but for postgresql.auto.conf: moonrise.conf, its include line, the
 * block in pg_hba.conf. What stood around them stays. */
int settings_leave(const char *datadir, struct err *e);

/* The directory of the (first) socket in moonrise.conf, made if it is missing. */
int settings_socket_dir(const char *datadir, struct err *e);

void settings_done(struct settings *s);

#endif
