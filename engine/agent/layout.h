/*
 * Where an instance has its configuration files: in its data directory, or elsewhere, as Debian's clusters have
 * them in /etc/postgresql. Such an instance is one that was adopted, and the paths that its server had then
 * stand in moonrise.files, beside the data, so that they are known while it does not run. That note is no
 * part of a copy, and holds for the directory that it names: a copy made by hand has none of those files.
 * Any thread.
 */
#ifndef AGENT_LAYOUT_H
#define AGENT_LAYOUT_H

#include <stdbool.h>

struct err;
struct message;
struct order;

struct layout {
    char *config_file;
    char *hba_file;
    char *ident_file;
    bool outside; /* the configuration file is not in the data directory */
};

/* Fills *l, to be freed with layout_done, also after an error. ERR_REFUSED when the note is of another
 * directory, ERR_FORMAT when it is damaged. */
int layout_read(struct layout *l, const char *datadir, struct err *e);

/* Writes the note of args.config_file, args.hba_file and args.ident_file when these are given. ERR_ARGUMENT,
 * ERR_IO. */
int layout_keep(const struct order *o, struct err *e);

/* Sets config_dir, when that is not the data directory. With `lost` the directory has no instance any more, and
 * the note is gone with that: lost_config_dir is where Debian's files for it are. */
void layout_tell(struct message *out, const char *datadir, bool lost);

/* Removes the note. */
int layout_forget(const struct order *o, struct err *e);

void layout_done(struct layout *l);

#endif
