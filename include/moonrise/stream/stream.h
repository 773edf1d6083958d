/*
 * The receiver of a server's WAL stream: what pg_receivewal and PostgreSQL's own walreceiver do. It streams
 * from where a directory's WAL ends into segment files of that directory, follows the server's timelines,
 * and tells the server how far it is.
 *
 * It blocks: for jobs on threads of their own. Formats: PostgreSQL's protocol, "Streaming Replication
 * Protocol"; names and sizes of segments as in src/include/access/xlog_internal.h, and as pg_receivewal
 * leaves them (src/bin/pg_basebackup/receivelog.c, walmethods.c).
 *
 * It never stands in for a mirror (SAFETY.md, rule 1): names and slots of mirrors are refused, and so is,
 * where `never_synchronous` is set, a server that would count it as synchronous.
 */
#ifndef MOONRISE_STREAM_STREAM_H
#define MOONRISE_STREAM_STREAM_H

#include "moonrise/conn/conn.h"
#include "moonrise/pg/lsn.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct err;

enum stream_codec { STREAM_PLAIN, STREAM_GZIP, STREAM_LZ4 };

enum stream_event_kind {
    STREAM_BEGINS,   /* at lsn of timeline */
    STREAM_FINISHED, /* a segment, which ends at lsn */
    STREAM_SWITCHED, /* to timeline, which begins at lsn */
    STREAM_IGNORED, /* a file of the directory whose name says segment, and whose content does not */
};

struct stream_event {
    enum stream_event_kind kind;
    lsn_t lsn;
    uint32_t timeline;
    const char *name; /* of the file, borrowed; STREAM_IGNORED only */
};

struct stream_spec {
    struct conn_params params; /* without `replication`, which is the receiver's business */
    const char *directory;     /* it is there */
    const char *slot;          /* or NULL; it is there */
    /* Where an empty directory begins; 0: where the slot stands (PostgreSQL 15 and later tell), else where
     * the server is. Always moved back to the beginning of its segment. */
    lsn_t begin_lsn;
    uint32_t begin_timeline;
    lsn_t end_lsn;              /* ends as soon as more than this was received; 0: never */
    uint64_t system_identifier; /* of the server, or 0: any that fits the directory */
    enum stream_codec codec;
    int level;              /* of the codec, 0: its own choice */
    bool sync;              /* whole segments are flushed */
    bool synchronous;       /* and each byte, as soon as nothing more is at hand */
    bool never_synchronous; /* ERR_REFUSED by a server that would count this one as synchronous */
    int64_t connect_ms;     /* for a session, and for the answer to a command */
    int64_t status_ms;      /* between two status updates; 0: on request only */
    int64_t silence_ms; /* a server that says nothing for so long is dead; asked after half of it */
    const atomic_bool *cancel;
    void (*said)(void *arg, const struct stream_event *event); /* on the caller's thread */
    void *arg;
};

struct stream_result {
    bool streamed;   /* it came as far as streaming */
    lsn_t begin_lsn; /* of the first byte that was asked for */
    lsn_t lsn;       /* behind the last one that was written */
    uint32_t timeline;
};

/* Streams until more than end_lsn is there (0), the cancel flag is set (ERR_CANCELLED), or something fails;
 * what was received is written then, and durable. *out is filled in any case.
 *
 * ERR_BUSY (another receiver writes to the directory), ERR_NOTFOUND (no directory, no slot, or the server
 * has removed the WAL that comes next), ERR_REFUSED (another system, a timeline that the server does not
 * know, a name or slot of a mirror), ERR_VERSION, ERR_FORMAT and ERR_PROTOCOL (what the server sent is no
 * WAL), ERR_CONNECT, ERR_TIMEOUT and ERR_SQL (the link, or the server), ERR_SPACE, ERR_PERMISSION, ERR_IO
 * (the directory). */
int stream_receive(struct stream_result *out, const struct stream_spec *spec, struct err *e);

/* Whether a slot or an application_name is kept for mirrors ("mr_slot_3", "mr_0_3_17"). */
bool stream_is_mirrors_slot(const char *slot);
bool stream_is_mirrors_name(const char *application_name);

#endif
