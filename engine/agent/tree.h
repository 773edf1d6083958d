/*
 * Removing directory trees. Links are removed, never followed. Any thread.
 */
#ifndef AGENT_TREE_H
#define AGENT_TREE_H

struct err;

/* Removes what is in `dir`, but for the top-level names in `keep` (NULL-terminated). ERR_IO, ... also when
 * `dir` is a link itself. */
int tree_empty(const char *dir, const char *const *keep, struct err *e);

/* Removes a directory with everything in it; nothing happens when it is not there. */
int tree_remove(const char *dir, struct err *e);

#endif
