/*
 * One call of an operation while it is carried out: what it was given, and what every order goes through
 * before it may act. Each call runs on a job's thread of its own.
 */
#ifndef AGENT_ORDER_H
#define AGENT_ORDER_H

#include "epoch.h"
#include "moonrise/agent/agent.h"
#include "moonrise/pg/control.h"
#include "moonrise/wire/message.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct err;

enum order_flag {
    ORDER_QUESTION = 0, /* changes nothing, takes no lock */
    ORDER_ORDER = 1,    /* runs under the epoch lock */
    ORDER_CREATES = 2,  /* allowed without an epoch file */
    ORDER_HOST = 4,     /* about the host: takes no data directory */
    ORDER_MAKES = 8,    /* makes the data directory when it is missing */
    ORDER_REMOVES = 16, /* takes away what args.maker has made, or what args.replaced says has been
                         * replaced; where nothing is it has been done */
    ORDER_DISOWNS = 32, /* carried out only where args.adoption is what moonrise.before says */
    ORDER_BARS = 64,    /* what the last order was stays on record */
};

struct order {
    const struct agent_call *call;
    const struct message *args;
    struct message *result;
    char *datadir; /* canonical once it exists */
    int port;
    const char *bin, *user, *passfile, *dbname;
    int dbid, content;
    const char *sysid; /* "" when not given */
    struct claim claim;
    bool repeat;       /* the very same order as the last one */
    struct epoch last; /* the epoch file, as this order has left it */
    int lock_fd;       /* -1 while the lock is not held */
};

/* Fills *o from the arguments. ERR_PROTOCOL, ERR_ARGUMENT. Free with order_done. */
int order_init(struct order *o, const struct agent_call *call, unsigned flags, struct err *e);

/* Makes a missing data directory. ERR_PERMISSION, ... */
int order_make_dir(struct order *o, struct err *e);

/* Takes the lock, compares, and writes (epoch, step) durably. ERR_STALE, ERR_BUSY, ERR_REFUSED ... */
int order_begin(struct order *o, unsigned flags, struct err *e);

/* Compares with the order that moonrise.patch names: a directory that is being filled, or emptied, may have
 * no epoch file. One of another dbid binds nobody. ERR_STALE. */
int order_compare_note(const struct order *o, struct err *e);

/* Lets go of the lock for an open-ended wait. */
void order_unlock(struct order *o);

/* Takes it back; ERR_STALE when another order came meanwhile. */
int order_relock(struct order *o, struct err *e);

/* Writes o->last, with this order's numbers; what was barred is older. */
int order_write_epoch(struct order *o, struct err *e);

bool order_cancelled(const struct order *o);

/* Sleeps. ERR_CANCELLED. */
int order_pause(const struct order *o, int64_t ms, struct err *e);

/* args[key] as milliseconds from now on, at most ten minutes; `otherwise` when missing. */
int64_t order_deadline(const struct order *o, const char *key, int64_t otherwise);

/* "DATADIR/name"; free with free(). */
char *order_path(const struct order *o, const char *name);

bool file_exists(const char *datadir, const char *name);

void order_done(struct order *o);

/* The operations. */
int op_hello(struct order *o, struct err *e);
int op_tls(struct order *o, struct err *e);
int op_programs(struct order *o, struct err *e);
int op_address(struct order *o, struct err *e);
int op_passfile(struct order *o, struct err *e);
int op_record_read(struct order *o, struct err *e);
int op_record_write(struct order *o, struct err *e);
int op_inspect(struct order *o, struct err *e);
int op_disk(struct order *o, struct err *e);
int op_history(struct order *o, struct err *e);
int op_read(struct order *o, struct err *e);
int op_reload(struct order *o, struct err *e);
int op_try(struct order *o, struct err *e);
int op_configuration(struct order *o, struct err *e);
int op_survey(struct order *o, struct err *e);
int op_makedirs(struct order *o, struct err *e);
int op_describe(struct order *o, struct err *e);
int op_sql(struct order *o, struct err *e);
int op_remove_datadir(struct order *o, struct err *e);
int op_initdb(struct order *o, struct err *e);
int op_adopt(struct order *o, struct err *e);
int op_disown(struct order *o, struct err *e);
int op_configure(struct order *o, struct err *e);
int op_start(struct order *o, struct err *e);
int op_stop(struct order *o, struct err *e);
int op_fence(struct order *o, struct err *e);
int op_mark(struct order *o, struct err *e);
int op_bar(struct order *o, struct err *e);
int op_name(struct order *o, struct err *e);
int op_arm(struct order *o, struct err *e);
int op_release(struct order *o, struct err *e);
int op_promote(struct order *o, struct err *e);
int op_follow(struct order *o, struct err *e);
int op_slot(struct order *o, struct err *e);
int op_checkpoint(struct order *o, struct err *e);
int op_recover(struct order *o, struct err *e);

#endif
