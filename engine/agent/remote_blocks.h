/*
 * The source of a patch (moonrise/patch/source.h) whose files are on another host.
 */
#ifndef AGENT_REMOTE_BLOCKS_H
#define AGENT_REMOTE_BLOCKS_H

#include "moonrise/patch/patch.h"
#include "remote.h"

struct patch_source;

struct remote_blocks {
    const struct remote_way *way;
    const struct patch_spec *spec; /* source_dir, tablespaces, cancel */
    int64_t stall_ms;              /* as in struct remote_spec */
    struct remote
        *control; /* for pg_control: already told of its instance; holds the backup; or NULL */
};

/* The spec, the way and the control feeder must outlive it. Freed by its own `free`. */
int remote_blocks_new(struct patch_source **out, const struct remote_blocks *what, struct err *e);

#endif
