#include "adoption.h"

#include "moonrise/base/err.h"
#include "moonrise/base/io.h"
#include "moonrise/pg/conf.h"
#include "moonrise/pg/datadir.h"
#include "note.h"
#include "order.h"
#include "settings.h"

#include <stdlib.h>

/* The key is no setting: those that are not PostgreSQL's own have a dot in their names. */
static const struct note before = {.file = "moonrise.before", .key = "adoption"};

int
adoption_check(const struct order *o, struct err *e)
{
    struct conf c = CONF_INIT;
    const char *ours;
    int rc = message_need_text(o->args, before.key, &ours, e);
    if (rc == 0)
        rc = note_read(&c, &before, o->datadir, e);
    if (rc == 0 && !note_names(&c, &before, ours)) {
        rc = err_set(e, ERR_REFUSED, "%s was adopted by another run of init", o->datadir);
        err_hint(e, "when no cluster has it any more, remove %s/%s", o->datadir, before.file);
    }
    conf_done(&c);
    return rc;
}

int
adoption_keep(const struct order *o, struct err *e)
{
    struct settings s;
    int rc = adoption_check(o, e);
    if (rc != ERR_NOTFOUND)
        return rc;
    rc = settings_read(&s, o->datadir, e);
    if (rc < 0)
        return rc;
    rc = conf_set(&s.auto_, before.key, message_text(o->args, before.key, ""), e);
    if (rc == 0) {
        char *path = order_path(o, before.file);
        rc = conf_write(&s.auto_, path, "# postgresql.auto.conf as it was before moonrise came.\n",
                        datadir_file_mode(o->datadir), e);
        free(path);
    }
    settings_done(&s);
    return rc;
}

int
adoption_before(struct conf *out, const struct order *o, struct err *e)
{
    int rc = note_read(out, &before, o->datadir, e);
    conf_remove(out, before.key);
    return rc;
}

bool
adoption_noted(const char *datadir)
{
    return file_exists(datadir, before.file);
}

void
adoption_tell(struct message *out, const char *datadir)
{
    note_tell(out, &before, datadir);
}

int
adoption_forget(const struct order *o, struct err *e)
{
    char *path = order_path(o, before.file);
    int rc = io_unlink_durable(path, e);
    free(path);
    return rc == ERR_NOTFOUND ? 0 : rc;
}
