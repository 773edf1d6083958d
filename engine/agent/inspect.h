/*
 * What a data directory is, from its files. Any thread.
 */
#ifndef AGENT_INSPECT_H
#define AGENT_INSPECT_H

#include "moonrise/base/hash.h"
#include "moonrise/pg/control.h"

struct err;

enum datadir_kind { KIND_MISSING, KIND_EMPTY, KIND_FOREIGN, KIND_DATADIR, KIND_HALF_MADE };

/* ERR_IO, ERR_PERMISSION when it cannot be looked at. */
int datadir_kind(enum datadir_kind *out, const char *datadir, struct err *e);

const char *datadir_kind_name(enum datadir_kind kind);

/* What identifies a checkpoint: the same for all servers of one history. */
void checkpoint_sum(char sum[HASH_TEXT_BYTES], const uint8_t body[CONTROL_CHECKPOINT_BYTES]);

#endif
