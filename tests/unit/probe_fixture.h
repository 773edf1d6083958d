/* A prober, a server that it asks, and what it has observed. */
#ifndef PROBE_FIXTURE_H
#define PROBE_FIXTURE_H

#include "../lib/pg.h"

#include "moonrise/conn/conn.h"
#include "moonrise/probe/prober.h"

#define KEPT 400

struct fixture {
    struct loop *l;
    struct prober *p;
    struct observation seen[KEPT];
    int count;
    int asked; /* how often a name was to be looked up, and the ticket for the last */
    uint64_t ticket;
    int dropped; /* the dbid to drop from inside of the callback; -1 frees the prober; 0 */
};

static struct pg primary, mirror;
static char *sysid;

static inline int
group_setup(void **state)
{
    pg_setup(state, &primary,
             "wal_level = replica\nmax_wal_senders = 5\nautovacuum = off\n"
             "max_connections = 12\nsuperuser_reserved_connections = 3\n");
    free(pg_sql(&primary, "create role moonrise login replication password 'moon';"
                          "grant pg_monitor to moonrise;"
                          "create table t (a int);"
                          "select pg_create_physical_replication_slot('mr_slot_2')"));
    sysid = pg_sql(&primary, "select system_identifier from pg_control_system()");
    return 0;
}

static inline int
group_teardown(void **state)
{
    pg_teardown(state);
    if (mirror.dir)
        pg_remove(&mirror);
    free(sysid);
    return 0;
}

static inline void
observed(void *arg, const struct observation *o)
{
    struct fixture *f = arg;
    f->seen[f->count++ % KEPT] = *o;
    if (f->dropped == o->dbid) {
        prober_drop(f->p, o->dbid);
        f->dropped = 0;
    } else if (f->dropped < 0) {
        prober_free(f->p);
        f->p = NULL;
    }
}

static inline int
setup(void **state)
{
    struct fixture *f = mem_zalloc(sizeof(*f));
    struct prober_spec spec = {50, 500, 60000, observed, NULL, f};
    assert_int_equal(loop_new(&f->l, NULL), 0);
    prober_new(&f->p, f->l, &spec);
    if (primary.pid == 0)
        pg_start(&primary);
    *state = f;
    return 0;
}

static inline int
teardown(void **state)
{
    struct fixture *f = *state;
    prober_free(f->p);
    assert_int_equal(loop_handles(f->l), 0);
    loop_free(f->l);
    free(f);
    return 0;
}

static inline void
retime(struct fixture *f, int64_t interval_ms, int64_t timeout_ms, int64_t fresh_ms)
{
    struct prober_spec spec = {interval_ms, timeout_ms, fresh_ms, observed, NULL, f};
    prober_free(f->p);
    prober_new(&f->p, f->l, &spec);
}

static inline void
set_at(struct fixture *f, const char *host, const char *port, const char *password,
       const char *expected)
{
    const char *keywords[] = {"host", "port", "user", "dbname", "password", NULL};
    const char *values[] = {host, port, "moonrise", "postgres", password, NULL};
    struct target_spec spec = {
        .dbid = 1, .params = {keywords, values}, .sysid = expected, .peer_slot = "mr_slot_2"};
    prober_set(f->p, &spec);
}

static inline void
set(struct fixture *f, const struct pg *pg)
{
    set_at(f, pg->dir, pg->port, NULL, sysid);
}

static inline const struct observation *
next(struct fixture *f)
{
    int wanted = f->count + 1;
    until_count(f->l, &f->count, wanted, 20000, "an observation");
    return &f->seen[(wanted - 1) % KEPT];
}

/* Waits for an observation with this evidence. */
static inline const struct observation *
await(struct fixture *f, enum evidence wanted)
{
    int64_t deadline = clock_ms() + 20000;
    const struct observation *o = next(f);
    while (o->evidence != wanted && clock_ms() < deadline)
        o = next(f);
    if (o->evidence != wanted)
        fail_msg("waited for %s, the last was %s: %s", evidence_name(wanted),
                 evidence_name(o->evidence), o->message);
    return o;
}

#endif
