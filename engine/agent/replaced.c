#include "replaced.h"

#include "inspect.h"
#include "moonrise/base/err.h"
#include "moonrise/pg/conf.h"
#include "order.h"

#include <stdlib.h>
#include <string.h>

static int
err_not_ours(const struct order *o, const char *why, struct err *e)
{
    err_set(e, ERR_REFUSED, "%s is not what dbid %d has left behind: %s", o->datadir, o->dbid, why);
    return err_hint(e, "it is left as it is");
}

/* A copy that was begun, or a directory that is being emptied, may have no epoch file; its note has it. */
static int
check_note(const struct order *o, struct err *e)
{
    struct conf c = CONF_INIT;
    char *path = order_path(o, "moonrise.patch");
    int rc = conf_read(&c, path, e);
    const char *dbid = rc == 0 ? conf_get(&c, "dbid") : NULL;
    const char *sysid = rc == 0 ? conf_get(&c, "sysid") : NULL;
    if (rc == ERR_NOTFOUND || (rc == 0 && (!dbid || !sysid)))
        rc = err_not_ours(o, "nothing in it says whose it is", e);
    else if (rc == 0 && (atoi(dbid) != o->dbid || strcmp(sysid, o->sysid) != 0))
        rc = err_not_ours(o, "it is another instance's", e);
    conf_done(&c);
    free(path);
    return rc;
}

int
replaced_check(const struct order *o, struct err *e)
{
    enum datadir_kind kind;
    struct epoch ep;
    if (!o->sysid[0])
        return err_set(e, ERR_PROTOCOL, "'sysid' is missing");
    int rc = datadir_kind(&kind, o->datadir, e);
    if (rc == 0)
        rc = epoch_read(&ep, o->datadir, e);
    if (rc < 0 || kind == KIND_MISSING || kind == KIND_EMPTY)
        return rc;
    if (kind == KIND_FOREIGN)
        return err_not_ours(o, "it is no data directory", e);
    if (!ep.valid)
        return kind == KIND_HALF_MADE ? check_note(o, e)
                                      : err_not_ours(o, "it has no valid epoch file", e);
    if (ep.dbid != o->dbid || strcmp(ep.sysid, o->sysid) != 0)
        return err_not_ours(o, "it is another instance's", e);
    if (!ep.marked && kind != KIND_HALF_MADE)
        return err_not_ours(o, "it is not marked as replaced", e);
    return 0;
}
