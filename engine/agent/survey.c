/*
 * survey: what is around an instance that is to be adopted. Who starts it by itself, who started it, and
 * which of its files cannot be written anew.
 *
 * Autostart is looked for where systemd and Debian's postgresql-common keep it: a unit that is enabled (a
 * link in some *.wants or *.requires) and whose text, drop-ins and environment files name the directory, and
 * start.conf of the Debian cluster whose data_directory it is. Links that a generator made follow from those.
 */
#include "debian.h"
#include "moonrise/base/err.h"
#include "moonrise/base/io.h"
#include "moonrise/base/path.h"
#include "moonrise/base/str.h"
#include "moonrise/base/user.h"
#include "moonrise/pg/pidfile.h"
#include "order.h"
#include "process.h"

#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define TEXT_BYTES_MAX (1u << 20)

static const char *const system_dirs[] = {
    "/etc/systemd/system",     "/run/systemd/system", "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system", "/lib/systemd/system", NULL};

struct survey {
    struct order *o;
    char *user_dir;     /* ~/.config/systemd/user */
    const char **dirs;  /* where the units of the kind that is looked at are */
    const char *option; /* what systemctl is to be told for them */
    struct str seen;    /* names of units that were looked at, each between line ends */
    char *unit;         /* whose control group the postmaster is in, or NULL */
    bool unit_is_users; /* it is one of the user's own manager */
};

/* Calls fn for each entry of a directory; there may be none. */
static void
each_entry(const char *dir_name, void (*fn)(struct survey *s, const char *dir, const char *name),
           struct survey *s)
{
    DIR *dir = opendir(dir_name);
    struct dirent *entry;
    while (dir && (entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] != '.')
            fn(s, dir_name, entry->d_name);
    }
    if (dir)
        closedir(dir);
}

static bool
ends_with(const char *text, const char *end)
{
    size_t len = strlen(text), n = strlen(end);
    return len > n && strcmp(text + len - n, end) == 0;
}

/* The next absolute path in a text, to be freed; NULL at its end. */
static char *
next_path(const char **at)
{
    static const char stops[] = " \t\r\n\"'=:;,";
    for (const char *p = *at; *p; p++) {
        if (*p != '/')
            continue;
        size_t len = strcspn(p, stops);
        *at = p + len;
        return mem_printf("%.*s", (int)len, p);
    }
    *at += strlen(*at);
    return NULL;
}

/* Whether a text names the directory, by whatever path. */
static bool
text_names(const char *text, const char *datadir)
{
    bool found = false;
    char *path;
    while (!found && (path = next_path(&text)) != NULL) {
        found = path_leads_to(path, datadir);
        free(path);
    }
    return found;
}

static void
append_file(struct str *out, const char *path)
{
    struct str text = STR_INIT;
    if (io_read_file(&text, path, TEXT_BYTES_MAX, NULL) == 0)
        str_printf(out, "%s\n", text.data);
    str_free(&text);
}

/* The unit file DIR/NAME and its drop-ins. */
static void
append_unit(struct str *out, const char *dir, const char *name)
{
    char *path = path_join(dir, name), *more = mem_printf("%s.d", path);
    append_file(out, path);
    DIR *drop_ins = opendir(more);
    struct dirent *entry;
    while (drop_ins && (entry = readdir(drop_ins)) != NULL) {
        if (!ends_with(entry->d_name, ".conf"))
            continue;
        char *one = path_join(more, entry->d_name);
        append_file(out, one);
        free(one);
    }
    if (drop_ins)
        closedir(drop_ins);
    free(path);
    free(more);
}

/* The environment files that a unit names may say the directory in its place. */
static void
append_environment(struct str *out)
{
    static const char key[] = "EnvironmentFile=";
    char *text = mem_strdup(out->data);
    for (const char *p = strstr(text, key); p; p = strstr(p, key)) {
        p += sizeof key - 1;
        p += *p == '-';
        char *path = mem_printf("%.*s", (int)strcspn(p, " \t\r\n"), p);
        append_file(out, path);
        free(path);
    }
    free(text);
}

/* The text with %i and %I filled in: the instance as it stands, and with - for / undone. */
static void
fill_in(struct str *out, const char *text, const char *instance)
{
    for (const char *p = text; *p; p++) {
        if (*p != '%' || (p[1] != 'i' && p[1] != 'I')) {
            str_append(out, p, 1);
            continue;
        }
        bool whole = *++p == 'i';
        for (const char *q = instance; *q; q++)
            str_append(out, !whole && *q == '-' ? "/" : q, 1);
    }
}

/* NAME@.service of NAME@INSTANCE.service, else NULL. */
static char *
template_of(const char *name)
{
    const char *at = strchr(name, '@'), *dot = strrchr(name, '.');
    return at ? mem_printf("%.*s@%s", (int)(at - name), name, dot) : NULL;
}

/* All that a unit, or the template of its instance, says. */
static void
unit_text(struct str *out, const struct survey *s, const char *name)
{
    const char *at = strchr(name, '@'), *dot = strrchr(name, '.');
    char *template_name = template_of(name);
    char *instance = at ? mem_printf("%.*s", (int)(dot - at - 1), at + 1) : mem_strdup("");
    struct str raw = STR_INIT;
    for (const char **dir = s->dirs; *dir; dir++) {
        append_unit(&raw, *dir, name);
        if (template_name)
            append_unit(&raw, *dir, template_name);
    }
    append_environment(&raw);
    fill_in(out, raw.data, instance);
    str_free(&raw);
    free(template_name);
    free(instance);
}

/* Whether a unit's text starts servers; a shell's, or a scheduler's, only happens to hold one. */
static bool
starts_postgres(const char *text)
{
    return strstr(text, "postgres") || strstr(text, "pg_ctl");
}

static void
tell_start(struct survey *s, const char *what, const char *how_to_end)
{
    struct message *item = message_new();
    message_set_text(item, "what", what);
    message_set_text(item, "end", how_to_end);
    message_append_take(s->o->result, "starts", item);
}

static bool
is_in_unit(const struct survey *s)
{
    return s->unit && s->unit_is_users == (s->option[0] != '\0');
}

/* What a unit file with its drop-ins, which follow it, says of Restart=; NULL when that is nothing. */
static char *
restart_in(const char *dir, const char *name)
{
    static const char key[] = "\nRestart=";
    struct str text = STR_INIT;
    const char *last = NULL;
    append_unit(&text, dir, name);
    for (const char *p = strstr(text.data, key); p; p = strstr(p, key))
        last = p += sizeof key - 1;
    char *mode = last ? mem_printf("%.*s", (int)strcspn(last, " \t\r\n"), last) : NULL;
    str_free(&text);
    return mode;
}

/* The first directory that says something of it decides: an administrator's comes before a package's. */
static char *
restart_of(const struct survey *s, const char *name)
{
    char *template_name = template_of(name), *mode = NULL;
    for (const char **dir = s->dirs; *dir && !mode; dir++) {
        mode = restart_in(*dir, name);
        if (!mode && template_name)
            mode = restart_in(*dir, template_name);
    }
    free(template_name);
    return mode;
}

/* The unit that the postmaster is in, disabled or not, starts it anew when it ends and Restart= says so. */
static void
look_at_own_unit(struct survey *s)
{
    struct str text = STR_INIT;
    unit_text(&text, s, s->unit);
    char *mode = restart_of(s, s->unit);
    if (mode && *mode && strcmp(mode, "no") != 0 && starts_postgres(text.data)) {
        char *what = mem_printf("the unit %s, in which it runs, has Restart=%s", s->unit, mode);
        char *end = mem_printf("systemctl %sedit %s: write [Service] and, below it, Restart=no",
                               s->option, s->unit);
        tell_start(s, what, end);
        free(what);
        free(end);
    }
    free(mode);
    str_free(&text);
}

/* One link of a *.wants: the unit is enabled. */
static void
look_at_unit(struct survey *s, const char *dir, const char *name)
{
    (void)dir;
    char *mark = mem_printf("\n%s\n", name);
    if (!ends_with(name, ".service") || strncmp(name, "moonrise-", 9) == 0 ||
        strstr(s->seen.data, mark)) {
        free(mark);
        return;
    }
    str_puts(&s->seen, mark);
    struct str text = STR_INIT;
    unit_text(&text, s, name);
    if (text_names(text.data, s->o->datadir) || debian_unit_names(name, s->o->datadir) ||
        (is_in_unit(s) && strcmp(name, s->unit) == 0 && starts_postgres(text.data))) {
        char *what = mem_printf("the unit %s is enabled", name);
        char *end = mem_printf("systemctl %sdisable %s", s->option, name);
        tell_start(s, what, end);
        free(what);
        free(end);
    }
    str_free(&text);
    free(mark);
}

static void
look_at_wants(struct survey *s, const char *dir, const char *name)
{
    if (!ends_with(name, ".wants") && !ends_with(name, ".requires"))
        return;
    char *path = path_join(dir, name);
    each_entry(path, look_at_unit, s);
    free(path);
}

static void
look_at_systemd(struct survey *s, const char **dirs, const char *option)
{
    s->dirs = dirs;
    s->option = option;
    /* A user's unit may bear the name of a system's. */
    str_clear(&s->seen);
    if (is_in_unit(s))
        look_at_own_unit(s);
    for (const char **dir = dirs; *dir; dir++)
        each_entry(*dir, look_at_wants, s);
}

static void
look_at_debian(void *arg, const char *conf_dir)
{
    struct survey *s = arg;
    char *what = mem_printf("%s/start.conf says auto", conf_dir);
    char *end =
        mem_printf("write manual into %s/start.conf and run systemctl daemon-reload", conf_dir);
    tell_start(s, what, end);
    free(what);
    free(end);
}

/* The parent of a process, 0 when it cannot be told. */
static int
parent_of(int pid)
{
    struct str text = STR_INIT;
    char path[40];
    int parent = 0;
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    if (io_read_file(&text, path, 8192, NULL) == 0) {
        const char *end = strrchr(text.data, ')');
        if (!end || sscanf(end, ") %*c %d", &parent) != 1)
            parent = 0;
    }
    str_free(&text);
    return parent;
}

/* The unit whose control group the postmaster is in. */
static void
find_unit(struct survey *s, int postmaster)
{
    struct str text = STR_INIT;
    char path[40];
    snprintf(path, sizeof path, "/proc/%d/cgroup", postmaster);
    if (io_read_file(&text, path, 8192, NULL) == 0) {
        char *end = strstr(text.data, ".service\n");
        if (end) {
            end[sizeof ".service" - 1] = '\0';
            s->unit = mem_strdup(path_base(text.data));
            s->unit_is_users = strstr(text.data, "/user@") != NULL;
            message_set_text(s->o->result, "unit", s->unit);
        }
    }
    str_free(&text);
}

/* The command line of who started the postmaster and watches it as its parent. */
static void
tell_parent(struct order *o, int postmaster)
{
    struct str text = STR_INIT;
    char path[40];
    int parent = parent_of(postmaster);
    snprintf(path, sizeof path, "/proc/%d/cmdline", parent);
    if (parent > 1 && io_read_file(&text, path, 8192, NULL) == 0) {
        for (size_t i = 0; i < text.len; i++) {
            if (!isprint((unsigned char)text.data[i]))
                text.data[i] = ' ';
        }
        message_set_text(o->result, "parent", text.data);
    }
    str_free(&text);
}

/* A file that is written anew would take a link's place, and is made beside the one that it replaces. */
static void
tell_file(struct order *o, const char *path)
{
    struct stat st;
    char *dir = path_dir(path);
    if (lstat(path, &st) == 0 && S_ISLNK(st.st_mode))
        message_append_text(o->result, "links", path);
    if (access(dir, W_OK) != 0)
        message_append_text(o->result, "closed", path);
    free(dir);
}

static void
tell_files(struct order *o)
{
    static const char *const files[][2] = {{"config_file", "postgresql.conf"},
                                           {"hba_file", "pg_hba.conf"},
                                           {NULL, "postgresql.auto.conf"}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        const char *given = files[i][0] ? message_text(o->args, files[i][0], NULL) : NULL;
        char *path = given ? mem_strdup(given) : order_path(o, files[i][1]);
        tell_file(o, path);
        free(path);
    }
}

int
op_survey(struct order *o, struct err *e)
{
    struct survey s = {.o = o, .seen = STR_INIT};
    struct user user;
    struct pidfile pf;
    int rc = user_read(&user, e);
    if (rc < 0 && rc != ERR_NOTFOUND)
        return rc;
    if (pidfile_read(&pf, o->datadir, NULL) == 0) {
        tell_parent(o, pf.pid);
        find_unit(&s, pf.pid);
        pidfile_done(&pf);
    }
    look_at_systemd(&s, (const char **)system_dirs, "");
    if (user.home) {
        s.user_dir = mem_printf("%s/.config/systemd/user", user.home);
        const char *dirs[] = {s.user_dir, "/etc/systemd/user", "/usr/lib/systemd/user", NULL};
        look_at_systemd(&s, dirs, "--user ");
    }
    debian_each_auto(o->datadir, message_text(o->args, "config_file", NULL), look_at_debian, &s);
    tell_files(o);
    str_free(&s.seen);
    free(s.unit);
    free(s.user_dir);
    user_done(&user);
    return 0;
}
