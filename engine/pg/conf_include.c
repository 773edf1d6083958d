/*
 * A configuration file with all that it includes: src/backend/utils/misc/guc-file.l (PostgreSQL 15),
 * ParseConfigFile, ParseConfigDirectory.
 */
#include "moonrise/base/err.h"
#include "moonrise/base/path.h"
#include "moonrise/pg/conf.h"

#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

enum { DEPTH_MAX = 10 }; /* the server's CONF_FILE_MAX_DEPTH */

struct including {
    struct conf *out;
    const char *without;
    int depth;
};

static int include_file(struct including *in, const char *path, struct err *e);

static bool
is_left_out(const struct including *in, const char *path)
{
    char *real = NULL;
    bool out = in->without && path_canonical(&real, path, NULL) == 0 && !strcmp(real, in->without);
    free(real);
    return out;
}

/* The names that the server takes, in its order: those that end in .conf and do not begin with a dot. */
static int
is_conf(const struct dirent *entry)
{
    size_t len = strlen(entry->d_name), tail = sizeof ".conf" - 1;
    return entry->d_name[0] != '.' && len >= tail &&
           strcmp(entry->d_name + len - tail, ".conf") == 0;
}

static int
by_name(const struct dirent **one, const struct dirent **other)
{
    return strcmp((*one)->d_name, (*other)->d_name);
}

static int
include_dir(struct including *in, const char *path, struct err *e)
{
    struct dirent **entries;
    int rc = 0, count = scandir(path, &entries, is_conf, by_name);
    if (count < 0)
        return err_sys(e, errno, "%s", path);
    for (int i = 0; i < count; i++) {
        char *file = path_join(path, entries[i]->d_name);
        if (rc == 0)
            rc = include_file(in, file, e);
        free(file);
        free(entries[i]);
    }
    free(entries);
    return rc;
}

/* One item of the file `path`: something else to read, or a setting, which is taken over. */
static int
take_item(struct including *in, const char *path, struct conf_item *item, struct err *e)
{
    bool dir = strcasecmp(item->name, "include_dir") == 0;
    bool optional = strcasecmp(item->name, "include_if_exists") == 0;
    if (!dir && !optional && strcasecmp(item->name, "include") != 0) {
        struct conf *c = in->out;
        c->items = mem_realloc(c->items, (c->count + 1) * sizeof *c->items);
        c->items[c->count++] = *item;
        *item = (struct conf_item){0};
        return 0;
    }
    char *parent = path_dir(path), *what = path_join(parent, item->value);
    int rc = 0;
    if (dir)
        rc = include_dir(in, what, e);
    else if (!optional || access(what, F_OK) == 0)
        rc = include_file(in, what, e);
    free(parent);
    free(what);
    return rc;
}

static int
include_file(struct including *in, const char *path, struct err *e)
{
    struct conf c = CONF_INIT;
    if (is_left_out(in, path))
        return 0;
    if (in->depth == DEPTH_MAX)
        return err_set(e, ERR_FORMAT, "%s: files include one another too deep", path);
    int rc = conf_read(&c, path, e);
    in->depth++;
    for (size_t i = 0; rc == 0 && i < c.count; i++)
        rc = take_item(in, path, &c.items[i], e);
    in->depth--;
    conf_done(&c);
    return rc;
}

int
conf_read_included(struct conf *c, const char *path, const char *without, struct err *e)
{
    struct including in = {.out = c, .without = without};
    return include_file(&in, path, e);
}
