/*
 * configuration: what an instance has in configuration files outside of its data directory, for its copy, which
 * has its own inside.
 */
#include "configuration.h"

#include "layout.h"
#include "moonrise/base/err.h"
#include "moonrise/base/io.h"
#include "moonrise/base/path.h"
#include "moonrise/base/str.h"
#include "moonrise/pg/conf.h"
#include "moonrise/pg/datadir.h"
#include "order.h"
#include "settings.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define BYTES_MAX (4u << 20)

/* Paths of the original's files and of what only one server may write: a copy has them in its own directory,
 * where they are by default. */
static const char *const paths[] = {"config_file", "data_directory",    "hba_file",
                                    "ident_file",  "external_pid_file", "stats_temp_directory"};

static bool
is_originals(const struct conf_item *item)
{
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        if (strcasecmp(item->name, paths[i]) == 0)
            return true;
    }
    for (const char *const *name = settings_place; *name; name++) {
        if (strcasecmp(item->name, *name) == 0)
            return true;
    }
    /* Two servers of one host would write one log. */
    return settings_is_role(item->name) ||
           (strcasecmp(item->name, "log_directory") == 0 && item->value[0] == '/');
}

static bool
is_on(const char *value)
{
    static const char *const words[] = {"on", "true", "yes", "1"};
    bool on = false;
    for (size_t i = 0; value && i < sizeof words / sizeof *words; i++)
        on = on || strcasecmp(value, words[i]) == 0;
    return on;
}

/* The files without which a server with these settings does not start, where they are not in its data
 * directory and not moonrise's. */
static void
tell_tls(struct order *o, const struct conf *c, const char *own)
{
    static const char *const keys[][2] = {
        {"ssl_cert_file", "cert"}, {"ssl_key_file", "key"}, {"ssl_ca_file", "ca"}};
    struct conf ours = CONF_INIT;
    struct message *tls = message_new();
    bool whole = is_on(conf_get(c, "ssl")) && conf_read(&ours, own, NULL) == 0;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const char *path = conf_get(c, keys[i][0]);
        if (path && path[0] == '/')
            message_set_text(tls, keys[i][1], path);
        else
            whole = whole && i == 2;
        whole = whole && !conf_get(&ours, keys[i][0]);
    }
    if (whole)
        message_set_take(o->result, "tls", tls);
    else
        message_free(tls);
    conf_done(&ours);
}

/* The settings as the server reads them, moonrise's own aside: those come another way. */
static int
tell_settings(struct order *o, const struct layout *l, struct err *e)
{
    struct conf c = CONF_INIT;
    struct str text = STR_INIT;
    char *own = order_path(o, "moonrise.conf");
    int rc = conf_read_included(&c, l->config_file, own, e);
    str_printf(&text, "# Made by moonrise out of %s\n", l->config_file);
    for (size_t i = 0; i < c.count; i++) {
        struct conf one = {.items = &c.items[i], .count = 1};
        if (!is_originals(&c.items[i]))
            conf_format(&text, &one);
    }
    if (rc == 0) {
        message_set_text(o->result, "config", text.data);
        tell_tls(o, &c, own);
    }
    free(own);
    conf_done(&c);
    str_free(&text);
    return rc;
}

static int
tell_file(struct order *o, const char *key, const char *path, struct err *e)
{
    struct str text = STR_INIT;
    int rc = io_read_file(&text, path, BYTES_MAX, e);
    if (rc == 0)
        message_set_text(o->result, key, text.data);
    str_free(&text);
    return rc;
}

int
op_configuration(struct order *o, struct err *e)
{
    struct layout l;
    int rc = layout_read(&l, o->datadir, e);
    if (rc == 0 && l.outside) {
        rc = tell_settings(o, &l, e);
        if (rc == 0)
            rc = tell_file(o, "hba", l.hba_file, e);
        /* The server needs none. */
        if (rc == 0 && (rc = tell_file(o, "ident", l.ident_file, e)) == ERR_NOTFOUND)
            rc = 0;
    }
    layout_done(&l);
    return rc;
}

static int
write_file(const char *path, const struct message *from, const char *key, struct err *e)
{
    const char *text;
    char *dir = path_dir(path);
    int rc = message_need_text(from, key, &text, e);
    if (rc == 0)
        rc = io_write_durable(path, text, strlen(text), datadir_file_mode(dir), e);
    free(dir);
    return rc;
}

static int
check_settings(const struct message *from, struct err *e)
{
    struct conf c = CONF_INIT;
    const char *text;
    int rc = message_need_text(from, "config", &text, e);
    if (rc == 0 && (rc = conf_parse(&c, text, strlen(text), e)) < 0)
        err_wrap(e, "the source's configuration");
    conf_done(&c);
    return rc;
}

int
configuration_take(const struct order *o, struct err *e)
{
    const struct message *from = message_object(o->args, "configuration");
    struct layout l;
    int rc = layout_read(&l, o->datadir, e);
    if (rc == 0 && from && !l.outside) {
        rc = check_settings(from, e);
        if (rc == 0)
            rc = write_file(l.config_file, from, "config", e);
        if (rc == 0)
            rc = write_file(l.hba_file, from, "hba", e);
        if (rc == 0 && message_text(from, "ident", NULL))
            rc = write_file(l.ident_file, from, "ident", e);
    }
    layout_done(&l);
    return rc;
}
