#include "maker.h"

#include "inspect.h"
#include "moonrise/base/err.h"
#include "moonrise/base/io.h"
#include "moonrise/pg/conf.h"
#include "note.h"
#include "order.h"

#include <stdlib.h>

static const struct note made = {.file = "moonrise.made", .key = "maker"};

int
maker_note(const struct order *o, struct err *e)
{
    const char *maker = message_text(o->args, made.key, NULL);
    struct conf c = CONF_INIT;
    enum datadir_kind kind;
    int rc = maker ? datadir_kind(&kind, o->datadir, e) : 0;
    if (!maker || rc < 0 || kind != KIND_EMPTY)
        return rc;
    rc = conf_set(&c, made.key, maker, e);
    if (rc == 0) {
        char *path = order_path(o, made.file);
        rc = conf_write(&c, path, "# Which run of moonrise init has made this directory.\n", 0600,
                        e);
        free(path);
    }
    conf_done(&c);
    return rc;
}

int
maker_check(const struct order *o, struct err *e)
{
    struct conf c = CONF_INIT;
    const char *ours;
    if (!file_exists(o->datadir, "."))
        return 0;
    int rc = message_need_text(o->args, made.key, &ours, e);
    if (rc == 0 && (rc = note_read(&c, &made, o->datadir, e)) == ERR_NOTFOUND)
        rc = 0;
    if (rc == 0 && !note_names(&c, &made, ours)) {
        rc = err_set(e, ERR_REFUSED, "%s is not the directory that this run of init has made",
                     o->datadir);
        err_hint(e, "somebody has put it there since: it is left as it is");
    }
    conf_done(&c);
    return rc;
}

void
maker_tell(struct message *out, const char *datadir)
{
    note_tell(out, &made, datadir);
}
