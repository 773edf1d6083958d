#include "debian.h"

#include "moonrise/base/io.h"
#include "moonrise/base/path.h"
#include "moonrise/base/str.h"
#include "moonrise/pg/conf.h"
#include "order.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

#define DEBIAN_DIR      "/etc/postgresql"
#define START_BYTES_MAX (1u << 16)

/* Whether the cluster that is configured there has its data here. */
static bool
is_of(const char *conf_dir, const char *datadir)
{
    struct conf c = CONF_INIT;
    char *path = path_join(conf_dir, "postgresql.conf");
    const char *dir =
        conf_read_included(&c, path, NULL, NULL) == 0 ? conf_get(&c, "data_directory") : NULL;
    dir = dir ? dir : conf_dir;
    /* One that is missing leads nowhere. */
    bool names = strcmp(dir, datadir) == 0 || path_leads_to(dir, datadir);
    conf_done(&c);
    free(path);
    return names;
}

/* postgresql@15-main.service stands for the cluster 15/main. */
bool
debian_unit_names(const char *unit, const char *datadir)
{
    static const char prefix[] = "postgresql@";
    const char *dash = strchr(unit, '-'), *dot = strrchr(unit, '.');
    if (strncmp(unit, prefix, sizeof prefix - 1) != 0 || !dash || dot < dash)
        return false;
    const char *version = unit + sizeof prefix - 1;
    char *conf_dir = mem_printf("%s/%.*s/%.*s", DEBIAN_DIR, (int)(dash - version), version,
                                (int)(dot - dash - 1), dash + 1);
    bool names = is_of(conf_dir, datadir);
    free(conf_dir);
    return names;
}

/* auto, manual or disabled: the first word of start.conf that is no comment; without the file it is auto. */
static bool
is_auto(const char *conf_dir)
{
    struct str text = STR_INIT;
    char *path = path_join(conf_dir, "start.conf"), *rest = NULL;
    const char *mode = "auto";
    io_read_file(&text, path, START_BYTES_MAX, NULL);
    char *copy = mem_strdup(text.data);
    for (char *line = strtok_r(copy, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        line[strcspn(line, "#")] = '\0';
        line += strspn(line, " \t\r");
        line[strcspn(line, " \t\r")] = '\0';
        if (*line) {
            mode = line;
            break;
        }
    }
    bool starts = strcmp(mode, "auto") == 0;
    free(copy);
    free(path);
    str_free(&text);
    return starts;
}

struct looking {
    const char *datadir;
    bool all; /* not only those that start by themselves */
    void (*fn)(void *arg, const char *conf_dir);
    void *arg;
};

/* The directories `depth` levels below: VERSION, and NAME in it. */
static void
look_below(const struct looking *l, const char *dir_name, int depth)
{
    DIR *dir = opendir(dir_name);
    struct dirent *entry;
    while (dir && (entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] == '.')
            continue;
        char *path = path_join(dir_name, entry->d_name);
        if (depth > 1)
            look_below(l, path, depth - 1);
        else if (is_of(path, l->datadir) && (l->all || is_auto(path)))
            l->fn(l->arg, path);
        free(path);
    }
    if (dir)
        closedir(dir);
}

void
debian_each_auto(const char *datadir, const char *config_file,
                 void (*fn)(void *arg, const char *conf_dir), void *arg)
{
    struct looking l = {.datadir = datadir, .fn = fn, .arg = arg};
    look_below(&l, DEBIAN_DIR, 2);
    if (!config_file || path_inside(DEBIAN_DIR, config_file))
        return;
    char *conf_dir = path_dir(config_file);
    if (file_exists(conf_dir, "start.conf") && is_auto(conf_dir))
        fn(arg, conf_dir);
    free(conf_dir);
}

static void
keep_first(void *arg, const char *conf_dir)
{
    char **first = arg;
    if (!*first)
        *first = mem_strdup(conf_dir);
}

char *
debian_conf_dir(const char *datadir)
{
    char *first = NULL;
    struct looking l = {.datadir = datadir, .all = true, .fn = keep_first, .arg = &first};
    look_below(&l, DEBIAN_DIR, 2);
    return first;
}
