#include "adoption.h"

#include "moonrise/base/err.h"
#include "moonrise/base/io.h"
#include "moonrise/base/path.h"
#include "moonrise/pg/conf.h"
#include "moonrise/pg/datadir.h"
#include "order.h"
#include "settings.h"

#include <stdlib.h>
#include <string.h>

static const char note[] = "moonrise.before";
/* No setting: those that are not PostgreSQL's own have a dot in their names. */
static const char id_key[] = "adoption";

static int
read_note(struct conf *c, const char *datadir, struct err *e)
{
    char *path = path_join(datadir, note);
    int rc = conf_read(c, path, e);
    free(path);
    return rc;
}

int
adoption_check(const struct order *o, struct err *e)
{
    struct conf c = CONF_INIT;
    const char *ours, *theirs;
    int rc = message_need_text(o->args, id_key, &ours, e);
    if (rc == 0)
        rc = read_note(&c, o->datadir, e);
    if (rc == 0 && (!(theirs = conf_get(&c, id_key)) || strcmp(theirs, ours) != 0)) {
        rc = err_set(e, ERR_REFUSED, "%s was adopted by another run of init", o->datadir);
        err_hint(e, "when no cluster has it any more, remove %s/%s", o->datadir, note);
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
    rc = conf_set(&s.auto_, id_key, message_text(o->args, id_key, ""), e);
    if (rc == 0) {
        char *path = order_path(o, note);
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
    int rc = read_note(out, o->datadir, e);
    conf_remove(out, id_key);
    return rc;
}

bool
adoption_noted(const char *datadir)
{
    return file_exists(datadir, note);
}

void
adoption_tell(struct message *out, const char *datadir)
{
    struct conf c = CONF_INIT;
    if (read_note(&c, datadir, NULL) == 0 && conf_get(&c, id_key))
        message_set_text(out, "adoption", conf_get(&c, id_key));
    conf_done(&c);
}

int
adoption_forget(const struct order *o, struct err *e)
{
    char *path = order_path(o, note);
    int rc = io_unlink_durable(path, e);
    free(path);
    return rc == ERR_NOTFOUND ? 0 : rc;
}
