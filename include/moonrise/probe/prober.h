/*
 * Probes: one session to each of many instances, asked again and again, and what came back.
 *
 * One query per interval on a standing session (a session that breaks is reported at once), and a fresh
 * session every `fresh_ms`, since a server whose postmaster hangs goes on serving the sessions it has.
 * A fresh session is also tried at once when the standing one breaks, and every interval while none comes
 * about. `observed` may call anything here. Loop thread only.
 *
 * Measured: a question costs about 0.2 ms of processor, a fresh session with SCRAM about 3 ms.
 */
#ifndef MOONRISE_PROBE_PROBER_H
#define MOONRISE_PROBE_PROBER_H

#include "moonrise/conn/conn.h"
#include "moonrise/pg/lsn.h"

#include <stdbool.h>
#include <stdint.h>

struct loop;
struct prober;
struct target;

enum evidence {
    EVIDENCE_NONE,           /* it answered */
    EVIDENCE_REFUSED,        /* nobody listens on the port or socket */
    EVIDENCE_RESET,          /* a session broke: ask again, and ask the agent */
    EVIDENCE_TIMEOUT,        /* no answer within the deadline */
    EVIDENCE_UNRESOLVED,     /* the name has no address */
    EVIDENCE_UNREACHABLE,    /* no route, host down */
    EVIDENCE_AUTHENTICATION, /* it lives and does not let us in */
    EVIDENCE_STARTING,       /* 57P03 starting up */
    EVIDENCE_RECOVERING,     /* 57P03 in recovery mode: a crash is being repaired */
    EVIDENCE_SHUTTING_DOWN,  /* 57P03 shutting down, 57P01 */
    EVIDENCE_NOT_YET,      /* 57P03 not yet accepting connections (a standby before consistency) */
    EVIDENCE_TOO_MANY,     /* 53300: alive */
    EVIDENCE_SQLSTATE,     /* any other answer: alive */
    EVIDENCE_WRONG_SYSTEM, /* another system identifier answers at this address */
    EVIDENCE_NO_NEW_SESSION, /* the standing session answers, a fresh one does not come about */
    EVIDENCE_SHORTAGE, /* this process lacks descriptors, memory or ports: says nothing of the instance */
};

/* What one probe brought. */
struct observation {
    int dbid;
    enum evidence evidence;
    bool fresh;    /* from a fresh session */
    int64_t at_ms; /* clock_ms */
    int64_t took_ms;
    char sqlstate[6];
    char message[256];
    /* The rest is set only with EVIDENCE_NONE: */
    bool in_recovery;
    uint32_t timeline;
    char sysid[24];
    lsn_t lsn;            /* primary: flushed; mirror: received and flushed */
    lsn_t replay_lsn;     /* mirror */
    bool replay_paused;   /* mirror */
    bool receiver;        /* mirror: a WAL receiver is streaming */
    int64_t received_ms;  /* mirror: since its receiver got a message (WAL or a keepalive), or -1 */
    char sync_names[256]; /* synchronous_standby_names */
    char sync_commit
        [24]; /* synchronous_commit, server-wide; "" not told yet, "unknown" not to be told */
    /* primary: the walsender that holds slot `peer_slot`, if any */
    bool peer;
    char peer_name[72];  /* application_name */
    char peer_state[16]; /* streaming, catchup, ... */
    char peer_sync[16];  /* sync, async, quorum, potential */
    lsn_t peer_sent_lsn, peer_flush_lsn, peer_replay_lsn;
    int waiting; /* backends that wait for SyncRep */
};

struct target_spec {
    int dbid;
    struct conn_params params;
    const char *sysid;     /* expected, or NULL */
    const char *peer_slot; /* the slot of this instance's mirror, or NULL */
    bool standby;          /* it should be in recovery */
    bool named;            /* the host is a name: see `find` */
};

struct prober_spec {
    int64_t interval_ms; /* between two questions to an instance */
    int64_t timeout_ms;  /* for an answer, and for a session to come about and answer */
    int64_t fresh_ms;    /* between two fresh sessions */
    void (*observed)(void *arg, const struct observation *o); /* every probe's outcome */
    /* Begins to look up the host of `params`, which it borrows, off the loop: the system's resolver blocks.
     * The answer comes later by prober_found. False when it could not begin: it is tried again. Asked at
     * first, after failures, and when another server answers, or one in another role. NULL: libpq looks names
     * up, and the loop waits. */
    bool (*find)(void *arg, uint64_t ticket, const struct conn_params *params);
    void *arg;
};

void prober_new(struct prober **out, struct loop *l, const struct prober_spec *spec);

/* Adds or replaces (by dbid) an instance; the first probe starts at once. Copied. */
void prober_set(struct prober *p, const struct target_spec *spec);

void prober_drop(struct prober *p, int dbid);

/* What `find` has found: the same parameters with hostaddr, copied; NULL when there is no address. Nothing is
 * done when nobody waits for this ticket any more. */
void prober_found(struct prober *p, uint64_t ticket, const struct conn_params *params);

/* Probes this instance now with a fresh session, beside the interval; where it is being asked already, as
 * soon as that has ended. */
void prober_now(struct prober *p, int dbid);

/* "refused", "timeout", ...; "ok" for EVIDENCE_NONE. */
const char *evidence_name(enum evidence ev);

void prober_free(struct prober *p);

#endif
