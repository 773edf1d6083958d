#include "release_full.h"

#include "moonrise/base/err.h"
#include "order.h"
#include "process.h"
#include "settings.h"

#include <signal.h>

int
release_full(const struct order *o, struct err *e)
{
    struct settings s;
    int pid;
    if (file_exists(o->datadir, "standby.signal"))
        return err_set(e, ERR_REFUSED, "%s is in recovery: no primary", o->datadir);
    int rc = settings_read(&s, o->datadir, e);
    if (rc < 0)
        return rc;
    rc = conf_set(&s.auto_, "synchronous_standby_names", "", e);
    if (rc == 0)
        rc = settings_write_auto(&s, o->datadir, e);
    settings_done(&s);
    return rc < 0 ? rc : process_signal_postmaster(o->datadir, SIGHUP, &pid, e);
}
