#include "layout.h"

#include "debian.h"
#include "moonrise/base/err.h"
#include "moonrise/base/io.h"
#include "moonrise/base/path.h"
#include "moonrise/pg/conf.h"
#include "note.h"
#include "order.h"

#include <stdlib.h>

static const struct note files = {.file = "moonrise.files", .key = "datadir"};
static const char *const names[] = {"config_file", "hba_file", "ident_file"};

static void
set_inside(struct layout *l, const char *datadir)
{
    l->config_file = path_join(datadir, "postgresql.conf");
    l->hba_file = path_join(datadir, "pg_hba.conf");
    l->ident_file = path_join(datadir, "pg_ident.conf");
}

static int
set_outside(struct layout *l, const struct conf *c, const char *datadir, struct err *e)
{
    char **const places[] = {&l->config_file, &l->hba_file, &l->ident_file};
    if (!note_names(c, &files, datadir)) {
        err_set(e, ERR_REFUSED, "%s/%s is of another directory, %s", datadir, files.file,
                conf_get(c, files.key) ? conf_get(c, files.key) : "which it does not name");
        return err_hint(e, "if it has this directory's configuration files, write its name there");
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *path = conf_get(c, names[i]);
        if (!path || path[0] != '/')
            return err_set(e, ERR_FORMAT, "%s/%s: no %s", datadir, files.file, names[i]);
        *places[i] = mem_strdup(path);
    }
    l->outside = true;
    return 0;
}

int
layout_read(struct layout *l, const char *datadir, struct err *e)
{
    struct conf c = CONF_INIT;
    *l = (struct layout){0};
    int rc = note_read(&c, &files, datadir, e);
    if (rc == ERR_NOTFOUND) {
        set_inside(l, datadir);
        rc = 0;
    } else if (rc == 0) {
        rc = set_outside(l, &c, datadir, e);
    }
    conf_done(&c);
    return rc;
}

int
layout_keep(const struct order *o, struct err *e)
{
    struct conf c = CONF_INIT;
    if (!message_text(o->args, names[0], NULL))
        return 0;
    int rc = conf_set(&c, files.key, o->datadir, e);
    for (size_t i = 0; rc == 0 && i < sizeof names / sizeof *names; i++) {
        const char *path;
        rc = message_need_text(o->args, names[i], &path, e);
        if (rc == 0 && path[0] != '/')
            rc = err_set(e, ERR_ARGUMENT, "%s '%s' is no absolute path", names[i], path);
        if (rc == 0)
            rc = conf_set(&c, names[i], path, e);
    }
    if (rc == 0) {
        char *path = order_path(o, files.file);
        rc = conf_write(&c, path, "# Where the configuration of this instance is.\n", 0600, e);
        free(path);
    }
    conf_done(&c);
    return rc;
}

void
layout_tell(struct message *out, const char *datadir, bool lost)
{
    struct layout l;
    bool outside = layout_read(&l, datadir, NULL) == 0 && l.outside;
    char *dir = outside ? path_dir(l.config_file) : lost ? debian_conf_dir(datadir) : NULL;
    if (dir)
        message_set_text(out, outside ? "config_dir" : "lost_config_dir", dir);
    free(dir);
    layout_done(&l);
}

int
layout_forget(const struct order *o, struct err *e)
{
    char *path = order_path(o, files.file);
    int rc = io_unlink_durable(path, e);
    free(path);
    return rc == ERR_NOTFOUND ? 0 : rc;
}

void
layout_done(struct layout *l)
{
    free(l->config_file);
    free(l->hba_file);
    free(l->ident_file);
    *l = (struct layout){0};
}
