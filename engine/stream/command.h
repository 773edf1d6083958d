/*
 * The commands of a walsender (PostgreSQL's protocol, "Streaming Replication Protocol"), their answers
 * checked. Private to engine/stream. Any thread.
 */
#ifndef MOONRISE_ENGINE_STREAM_COMMAND_H
#define MOONRISE_ENGINE_STREAM_COMMAND_H

#include "moonrise/conn/db.h"
#include "moonrise/pg/lsn.h"

#include <stdint.h>
#include <sys/types.h>

struct str;

struct server_identity {
    uint64_t system_identifier;
    uint32_t timeline;
    lsn_t flushed_lsn;
};

/* IDENTIFY_SYSTEM. ERR_PROTOCOL and those of db_query, as all of these: half a minute and no longer. */
int command_identify(struct server_identity *out, struct db *d, struct err *e);

struct server_sizes {
    uint32_t segment_bytes, page_bytes;
    mode_t file_mode; /* as the server has it in its own directory */
};

/* SHOW wal_segment_size and its like. */
int command_sizes(struct server_sizes *out, struct db *d, struct err *e);

/* SHOW: replaces *out. */
int command_show(struct str *out, struct db *d, const char *setting, struct err *e);

/* TIMELINE_HISTORY: replaces *out by the text of the timeline's history file. */
int command_history(struct str *out, struct db *d, uint32_t timeline, struct err *e);

/* READ_REPLICATION_SLOT (PostgreSQL 15 and later): where the slot stands; 0 when it holds nothing yet.
 * ERR_NOTFOUND. */
int command_slot(lsn_t *lsn_out, uint32_t *timeline_out, struct db *d, const char *slot,
                 struct err *e);

/* A text of digits alone. ERR_PROTOCOL. */
int command_number(uint64_t *out, const char *text, uint64_t most, struct err *e);

/* "name" with its quotes doubled, for a command. Free with free(). */
char *command_quoted(const char *name);

#endif
