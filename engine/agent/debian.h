/*
 * Debian's clusters, as postgresql-common keeps them: /etc/postgresql/VERSION/NAME holds the configuration, and
 * start.conf there says who starts them. Any thread.
 */
#ifndef AGENT_DEBIAN_H
#define AGENT_DEBIAN_H

#include <stdbool.h>

/* Whether the unit is of the cluster that has its data in this (canonical) directory. */
bool debian_unit_names(const char *unit, const char *datadir);

/* Calls fn with the configuration directory of each cluster of that data directory that starts by itself; also
 * with that of `config_file`, or NULL, when it has such a start.conf in another place. */
void debian_each_auto(const char *datadir, const char *config_file,
                      void (*fn)(void *arg, const char *conf_dir), void *arg);

/* The configuration directory of the cluster of that data directory, which need not exist; NULL when there is
 * none. To be freed. */
char *debian_conf_dir(const char *datadir);

#endif
