/*
 * backup_label: where the replay of a copied data directory begins.
 *
 * Format: src/backend/access/transam/xlog.c (do_pg_backup_start) and xlogrecovery.c (read_backup_label),
 * PostgreSQL 13 to 16. Any thread.
 */
#ifndef MOONRISE_PG_LABEL_H
#define MOONRISE_PG_LABEL_H

#include "moonrise/pg/lsn.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;

struct label {
    lsn_t start_lsn;      /* START WAL LOCATION: the redo position */
    lsn_t checkpoint_lsn; /* CHECKPOINT LOCATION: start of the checkpoint record */
    uint32_t timeline;    /* of the segment named in the first line */
    bool streamed;        /* BACKUP METHOD: streamed: the end-of-backup record must be seen */
    bool rewound;         /* BACKUP METHOD: pg_rewind */
    bool from_standby;    /* BACKUP FROM: standby */
};

/* Parses a backup label. ERR_FORMAT: a line that must be there is missing or malformed, or the two
 * timelines in it disagree; ERR_VERSION: an incremental backup (PostgreSQL 17). */
int label_parse(struct label *out, const char *text, size_t len, struct err *e);

#endif
