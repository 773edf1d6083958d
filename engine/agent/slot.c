#include "slot.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"
#include "moonrise/loop/loop.h"
#include "sql.h"

#include <stdlib.h>
#include <string.h>

#define GONE_MS 5000

/* "" no slot, "good", "bad" (useless: it must be made anew), or "other" (not a physical one). */
static int
slot_state(const char **state, struct db *db, const char *name, struct err *e)
{
    static const char sql[] = "select case when slot_type <> 'physical' then 'other'"
                              " when restart_lsn is null or coalesce(wal_status, 'lost') = 'lost' "
                              "then 'bad' else 'good' end"
                              " from pg_replication_slots where slot_name = $1";
    static const char *const states[] = {"good", "bad", "other"};
    const struct result *r;
    *state = "";
    int rc = sql_with(&r, db, sql, name, e);
    if (rc < 0 || result_rows(r) == 0)
        return rc;
    for (size_t i = 0; i < sizeof states / sizeof *states; i++) {
        if (strcmp(result_get(r, 0, 0), states[i]) == 0)
            *state = states[i];
    }
    return 0;
}

static int
drop(struct db *db, const char *name, struct err *e)
{
    return sql_with(NULL, db, "select pg_drop_replication_slot($1)", name, e);
}

int
slot_create(bool *made, struct db *db, const char *name, struct err *e)
{
    const char *state;
    *made = false;
    int rc = slot_state(&state, db, name, e);
    if (rc == 0 && strcmp(state, "good") == 0)
        return 0;
    if (rc == 0 && strcmp(state, "other") == 0)
        rc = err_set(e, ERR_EXISTS, "slot %s is not a physical one", name);
    if (rc == 0 && strcmp(state, "bad") == 0)
        rc = drop(db, name, e);
    if (rc == 0)
        rc = sql_with(NULL, db, "select pg_create_physical_replication_slot($1, true)", name, e);
    *made = rc == 0;
    return rc < 0 ? err_wrap(e, "slot %s", name) : 0;
}

int
slot_free_up(struct db *db, const struct order *o, const char *name, struct err *e)
{
    static const char sql[] = "select active_pid from pg_replication_slots "
                              "where slot_name = $1 and active_pid is not null";
    const struct result *r;
    int rc = sql_with(&r, db, sql, name, e);
    if (rc < 0 || result_rows(r) == 0)
        return rc;
    char *pid = mem_strdup(result_get(r, 0, 0));
    rc = sql_end_backend(db, o, pid, clock_ms() + GONE_MS, e);
    free(pid);
    return rc;
}

int
slot_drop(struct db *db, const struct order *o, const char *name, struct err *e)
{
    const char *state;
    int rc = slot_state(&state, db, name, e);
    if (rc < 0 || !state[0])
        return rc;
    if (strcmp(state, "other") == 0)
        return err_set(e, ERR_REFUSED, "slot %s is not a physical one", name);
    rc = slot_free_up(db, o, name, e);
    return rc < 0 ? rc : drop(db, name, e);
}
