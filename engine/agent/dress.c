/*
 * What makes a finished copy an instance of its own: label, settings, history files.
 */
#include "configuration.h"
#include "moonrise/base/err.h"
#include "moonrise/base/io.h"
#include "moonrise/base/str.h"
#include "settings.h"
#include "source.h"
#include "target.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int
write_label(const struct target *t, struct err *e)
{
    char *label = order_path(t->o, "backup_label"), *map = order_path(t->o, "tablespace_map");
    struct str text = STR_INIT;
    int rc = io_write_durable(label, t->source->label, strlen(t->source->label), 0600, e);
    /* The map the source gave names its own directories; at its start the server makes the links anew. */
    for (int i = 0; i < t->space_count; i++)
        str_printf(&text, "%s %s\n", t->spaces[i].oid, t->spaces[i].target);
    if (rc == 0 && text.len > 0)
        rc = io_write_durable(map, text.data, text.len, 0600, e);
    str_free(&text);
    free(label);
    free(map);
    return rc;
}

/* The source's settings, with the target's own place. Roles are never taken over. */
static int
blend(struct conf *out, const struct conf *own, struct err *e)
{
    int rc = 0;
    for (const char *const *name = settings_place; rc == 0 && *name; name++) {
        const char *value = conf_get(own, *name);
        conf_remove(out, *name);
        if (value)
            rc = conf_set(out, *name, value, e);
    }
    for (size_t i = out->count; i-- > 0;) {
        char *name = out->items[i].name;
        if (settings_is_role(name)) {
            char *copy = mem_strdup(name);
            conf_remove(out, copy);
            free(copy);
            i = out->count; /* it may have stood several times */
        }
    }
    return rc;
}

/* Its sockets lie in its own directory unless it is told otherwise. */
static int
set_place(const struct target *t, struct settings *s, struct err *e)
{
    char port[12];
    int rc = 0;
    snprintf(port, sizeof port, "%d", t->o->port);
    if (t->o->port)
        rc = conf_set(&s->own, "port", port, e);
    if (rc == 0 && !conf_get(&s->own, "listen_addresses"))
        rc = conf_set(&s->own, "listen_addresses", "", e);
    if (rc == 0 && !conf_get(&s->own, "unix_socket_directories"))
        rc = conf_set(&s->own, "unix_socket_directories", t->o->datadir, e);
    conf_remove(&s->auto_, "synchronous_standby_names");
    return rc;
}

static int
write_settings(const struct target *t, struct err *e)
{
    struct settings s, own;
    const struct source *source = t->source;
    int rc = settings_parse(&s, source_file(source, "moonrise.conf"),
                            source_file(source, "postgresql.auto.conf"), e);
    if (rc < 0)
        return err_wrap(e, "the settings of the source %s", source->datadir);
    rc = settings_read(&own, t->o->datadir, e);
    if (rc == 0) {
        rc = blend(&s.own, &own.own, e);
        if (rc == 0)
            rc = blend(&s.auto_, &own.auto_, e);
        settings_done(&own);
    }
    if (rc == 0)
        rc = settings_merge(&s, t->o->args, true, e);
    if (rc == 0)
        rc = set_place(t, &s, e);
    if (rc == 0 && !conf_get(&s.auto_, "primary_slot_name"))
        rc = conf_set(&s.auto_, "primary_slot_name", t->source->slot, e);
    if (rc == 0)
        rc = settings_write(&s, t->o->datadir, e);
    settings_done(&s);
    return rc < 0 ? rc : settings_hba(t->o->datadir, t->o->args, false, e);
}

/* Without them a standby takes a timeline for one that has no past. */
static int
copy_histories(const struct target *t, struct err *e)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < t->source->file_count; i++) {
        const struct source_file *f = &t->source->files[i];
        if (strncmp(f->name, "pg_wal/", 7) != 0)
            continue;
        char *out = order_path(t->o, f->name);
        rc = io_write_durable(out, f->text.data, f->text.len, 0600, e);
        free(out);
    }
    return rc;
}

static int
write_signal(const struct target *t, struct err *e)
{
    char *standby = order_path(t->o, "standby.signal"),
         *other = order_path(t->o, "recovery.signal");
    int rc = io_write_durable(standby, "", 0, 0600, e);
    if (rc == 0 && (rc = io_unlink_durable(other, e)) == ERR_NOTFOUND)
        rc = 0;
    free(standby);
    free(other);
    return rc;
}

int
target_dress(struct target *t, struct err *e)
{
    int rc = write_label(t, e);
    if (rc == 0)
        rc = configuration_take(t->o, e);
    if (rc == 0)
        rc = write_settings(t, e);
    if (rc == 0)
        rc = copy_histories(t, e);
    return rc < 0 ? rc : write_signal(t, e);
}
