/*
 * The source's side of a recovery: its slot, the checkpoint, and the backup session that is held while blocks are
 * copied. On this host (source_here.c), or on another one, whose feeder does there what is done here
 * (source_remote.c). From a job's thread.
 */
#ifndef AGENT_SOURCE_H
#define AGENT_SOURCE_H

#include "moonrise/base/str.h"
#include "order.h"
#include "remote.h"
#include "remote_relay.h"
#include "remote_ssh.h"

#include <stdint.h>
#include <sys/types.h>

struct db;
struct err;
struct source;

/* A directory as the machine that it is on knows it. */
struct source_place {
    char *path;
    uint64_t dev, ino;
};

/* A link in the source's pg_tblspc. */
struct source_space {
    char *oid;
    char *path;                /* where the link leads, as the source's server sees it */
    struct source_place place; /* and as the agent of its host does */
};

/* A file that the target's settings and history are made of: moonrise.conf, postgresql.auto.conf,
 * pg_wal/X.history. */
struct source_file {
    char *name;
    struct str text;
};

/* Which WAL of the source its slot has to keep for the target, and how that stands. */
struct source_wal {
    lsn_t from;          /* all from here on: what lies before is on the target, or is not wanted */
    bool carried;        /* a receiver takes it to the target: this goes on after source_end */
    uint64_t held_bytes; /* out: what the slot holds back now */
    uint64_t
        left_bytes; /* out: what may still be added to that; UINT64_MAX when nothing bounds it */
};

struct source_kind {
    int (*open)(struct source *s, const struct message *args, struct err *e);
    int (*begin)(struct source *s, struct err *e);
    int (*check)(struct source *s, struct err *e);
    int (*keep)(struct source *s, struct source_wal *wal, struct err *e);
    int (*end)(struct source *s, struct err *e);
    int (*spaces)(struct source *s, struct err *e);
    int (*files)(struct source *s, struct err *e);
    int (*lives)(bool *out, struct source *s, struct err *e);
};

struct source {
    struct order *o;
    const struct source_kind *kind;
    const char *host;     /* NULL: this one */
    struct db *db;        /* here */
    struct remote remote; /* there: the feeder that holds the session */
    struct remote_ssh ssh;
    struct remote_relay relay;
    const struct remote_way *way; /* one of these: how it was started, and how others are */
    bool connected;               /* to that */
    bool same_machine;            /* whether its places can be compared with those of this host */
    char *datadir;                /* canonical */
    struct source_place home;     /* the same */
    char *boot_id;                /* of the machine that it is on */
    uint64_t sysid;
    const char *slot;
    lsn_t start_lsn;
    lsn_t keeps_lsn; /* from where on the slot has to hold WAL */
    bool carried;    /* the session goes on after the backup's end, for source_keep */
    bool ended;      /* the backup: a mirror may have the slot */
    char *label;     /* set by source_end */
    struct source_space *spaces;
    size_t space_count;
    struct source_file *files;
    size_t file_count;
};

/* Looks at args.source: its directory, that a primary of args.sysid runs there with full_page_writes on. With
 * args.source.host by ssh on that host. ERR_REFUSED, ERR_NOTFOUND, ERR_CONNECT, ... Free with source_close. */
int source_open(struct source *s, struct order *o, struct err *e);

/* Makes args.slot unless a good one exists, then completes an immediate checkpoint and begins a backup. */
int source_begin(struct source *s, struct err *e);

/* Whether the backup session still lives. */
int source_check(struct source *s, struct err *e);

/* Moves the slot up to wal->from, unless it is in use, and sees whether it still holds what follows.
 * ERR_REFUSED: it does not. After source_end only of WAL that is carried. */
int source_keep(struct source *s, struct source_wal *wal, struct err *e);

/* Ends the backup, and, unless WAL is carried, the session with it; s->label is the backup label. */
int source_end(struct source *s, struct err *e);

/* Reads s->spaces, and s->files. */
int source_spaces(struct source *s, struct err *e);
int source_files(struct source *s, struct err *e);

/* The text of a file, NULL when the source has none. After source_files. */
const struct str *source_file(const struct source *s, const char *name);

/* Frees s->spaces and s->files, and has none. */
void source_forget(struct source *s);

/* Whether a postmaster of the source runs. */
int source_lives(bool *out, struct source *s, struct err *e);

/* Whether a directory of this host is that place of the source. */
bool source_is_at(const struct source *s, const struct source_place *place, const char *path);

/* Drops the session, and with it a backup that was not ended. */
void source_close(struct source *s);

/* For the two kinds. */
extern const struct source_kind source_here, source_remote;
void source_place_read(struct source_place *place, const char *path);
void source_add_space(struct source *s, const struct source_space *take);
void source_add_file_take(struct source *s, const char *name, struct str *text);
char *source_boot_id(void);

#endif
