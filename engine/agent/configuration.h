/*
 * The configuration files that a copy gets from its source where these are not among the data.
 */
#ifndef AGENT_CONFIGURATION_H
#define AGENT_CONFIGURATION_H

struct err;
struct order;

/* Writes args.configuration, another instance's answer to "configuration", into the data directory, unless the
 * instance has a configuration of its own elsewhere, or there is no such argument. ERR_FORMAT: it is none,
 * ERR_IO, ... */
int configuration_take(const struct order *o, struct err *e);

#endif
