#include "maker.h"

#include "inspect.h"
#include "moonrise/base/err.h"
#include "moonrise/base/io.h"
#include "moonrise/base/path.h"
#include "moonrise/pg/conf.h"
#include "order.h"

#include <stdlib.h>
#include <string.h>

static const char note[] = "moonrise.made";
static const char key[] = "maker";

static int
read_note(struct conf *c, const char *datadir, struct err *e)
{
    char *path = path_join(datadir, note);
    int rc = conf_read(c, path, e);
    free(path);
    return rc;
}

int
maker_note(const struct order *o, struct err *e)
{
    const char *maker = message_text(o->args, key, NULL);
    struct conf c = CONF_INIT;
    enum datadir_kind kind;
    int rc = maker ? datadir_kind(&kind, o->datadir, e) : 0;
    if (!maker || rc < 0 || kind != KIND_EMPTY)
        return rc;
    rc = conf_set(&c, key, maker, e);
    if (rc == 0) {
        char *path = order_path(o, note);
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
    const char *ours, *theirs;
    if (!file_exists(o->datadir, "."))
        return 0;
    int rc = message_need_text(o->args, key, &ours, e);
    if (rc == 0 && (rc = read_note(&c, o->datadir, e)) == ERR_NOTFOUND)
        rc = 0;
    if (rc == 0 && (!ours[0] || !(theirs = conf_get(&c, key)) || strcmp(theirs, ours) != 0)) {
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
    struct conf c = CONF_INIT;
    if (read_note(&c, datadir, NULL) == 0 && conf_get(&c, key))
        message_set_text(out, key, conf_get(&c, key));
    conf_done(&c);
}
