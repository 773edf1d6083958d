#include "settings.h"

#include "layout.h"
#include "moonrise/base/err.h"
#include "moonrise/base/io.h"
#include "moonrise/base/path.h"
#include "moonrise/pg/datadir.h"
#include "moonrise/wire/message.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CONF_BYTES_MAX (4u << 20)
#define SOCKETS_PREFIX "/tmp/moonrise-" /* scripts/lib/instance.lua, socket_dir */

static const char own_header[] = "# Written by moonrise; changes made here are lost.\n";
static const char include_word[] = "include_if_exists ";
static const char hba_begin[] = "# moonrise begins; changes made here are lost\n";
static const char hba_end[] = "# moonrise ends\n";

const char *const settings_place[] = {
    "port", "listen_addresses", "unix_socket_directories", "external_pid_file", "cluster_name",
    NULL};

bool
settings_is_auto(const char *name)
{
    return strcmp(name, "synchronous_standby_names") == 0 ||
           strcmp(name, "primary_conninfo") == 0 || strcmp(name, "primary_slot_name") == 0;
}

bool
settings_is_role(const char *name)
{
    return settings_is_auto(name) || strncmp(name, "recovery_target", 15) == 0;
}

static int
read_conf(struct conf *c, const char *datadir, const char *name, struct err *e)
{
    char *path = path_join(datadir, name);
    int rc = conf_read(c, path, e);
    free(path);
    return rc == ERR_NOTFOUND ? 0 : rc;
}

int
settings_read(struct settings *s, const char *datadir, struct err *e)
{
    *s = (struct settings){.own = CONF_INIT, .auto_ = CONF_INIT};
    int rc = read_conf(&s->own, datadir, "moonrise.conf", e);
    if (rc == 0)
        rc = read_conf(&s->auto_, datadir, "postgresql.auto.conf", e);
    if (rc < 0)
        settings_done(s);
    return rc;
}

int
settings_parse(struct settings *s, const struct str *own, const struct str *auto_, struct err *e)
{
    *s = (struct settings){.own = CONF_INIT, .auto_ = CONF_INIT};
    int rc = own ? conf_parse(&s->own, own->data, own->len, e) : 0;
    if (rc == 0 && auto_)
        rc = conf_parse(&s->auto_, auto_->data, auto_->len, e);
    if (rc < 0)
        settings_done(s);
    return rc;
}

struct merge {
    struct settings *s;
    bool false_removes;
    int rc;
    struct err *e;
};

static void
merge_one(void *arg, const char *name, const char *text)
{
    struct merge *m = arg;
    struct conf *c = settings_is_auto(name) ? &m->s->auto_ : &m->s->own;
    if (m->rc < 0)
        return;
    if (m->false_removes && strcmp(text, "false") == 0) {
        conf_remove(c, name);
        return;
    }
    /* What ALTER SYSTEM has said of it would win. */
    if (c == &m->s->own)
        conf_remove(&m->s->auto_, name);
    m->rc = conf_set(c, name, text, m->e);
}

int
settings_merge(struct settings *s, const struct message *args, bool false_removes, struct err *e)
{
    struct merge m = {.s = s, .false_removes = false_removes, .e = e};
    message_each(args, "settings", merge_one, &m);
    return m.rc;
}

/* A file that is written anew keeps its mode; a new one gets what the server would give it. */
static mode_t
mode_of(const char *path, const char *datadir)
{
    struct stat st;
    return stat(path, &st) == 0 ? st.st_mode & 0777 : datadir_file_mode(datadir);
}

/* The line that includes moonrise.conf: a name without a directory is one beside the file that has it. */
static void
include_line(struct str *out, const struct layout *l, const char *datadir)
{
    char *path = l->outside ? path_join(datadir, "moonrise.conf") : mem_strdup("moonrise.conf");
    str_puts(out, include_word);
    conf_quote(out, path);
    str_puts(out, "\n");
    free(path);
}

/* Appends the include to a configuration file unless it is its last setting. */
static int
append_include(const char *path, const struct str *line, const char *datadir, struct err *e)
{
    struct str text = STR_INIT;
    int rc = io_read_file(&text, path, CONF_BYTES_MAX, e);
    bool there = text.len >= line->len &&
                 memcmp(text.data + text.len - line->len, line->data, line->len) == 0;
    if (rc == 0 && !there) {
        if (text.len > 0 && text.data[text.len - 1] != '\n')
            str_puts(&text, "\n");
        str_append(&text, line->data, line->len);
        rc = io_write_durable(path, text.data, text.len, mode_of(path, datadir), e);
    }
    str_free(&text);
    return rc;
}

static int
write_include(const char *datadir, struct err *e)
{
    struct str line = STR_INIT;
    struct layout l;
    int rc = layout_read(&l, datadir, e);
    if (rc == 0) {
        include_line(&line, &l, datadir);
        rc = append_include(l.config_file, &line, datadir, e);
    }
    str_free(&line);
    layout_done(&l);
    return rc;
}

int
settings_write_own(const struct settings *s, const char *datadir, struct err *e)
{
    char *path = path_join(datadir, "moonrise.conf");
    int rc = conf_write(&s->own, path, own_header, mode_of(path, datadir), e);
    free(path);
    return rc < 0 ? rc : write_include(datadir, e);
}

int
settings_write_auto(const struct settings *s, const char *datadir, struct err *e)
{
    char *path = path_join(datadir, "postgresql.auto.conf");
    int rc = conf_write(&s->auto_, path, CONF_AUTO_HEADER, mode_of(path, datadir), e);
    free(path);
    return rc;
}

int
settings_write(const struct settings *s, const char *datadir, struct err *e)
{
    int rc = settings_write_auto(s, datadir, e);
    return rc < 0 ? rc : settings_write_own(s, datadir, e);
}

/* Cuts an earlier block out of the text; what stood around it stays. */
static void
cut_block(struct str *text)
{
    char *from = strstr(text->data, hba_begin);
    char *to = from ? strstr(from, hba_end) : NULL;
    if (!to)
        return;
    to += sizeof hba_end - 1;
    size_t rest = text->len - (size_t)(to - text->data);
    memmove(from, to, rest + 1);
    text->len -= (size_t)(to - from);
}

static int
hba_text(struct str *out, const struct message *args, struct err *e)
{
    str_puts(out, hba_begin);
    for (size_t i = 0; i < message_count(args, "hba"); i++) {
        const char *line = message_text_item(args, "hba", i);
        if (!line || strpbrk(line, "\r\n"))
            return err_set(e, ERR_ARGUMENT, "hba[%zu] is no line", i + 1);
        str_printf(out, "%s\n", line);
    }
    str_puts(out, hba_end);
    return 0;
}

int
settings_hba(const char *datadir, const struct message *args, bool whole, struct err *e)
{
    if (message_count(args, "hba") == 0)
        return 0;
    struct str old = STR_INIT, out = STR_INIT;
    struct layout l;
    int rc = layout_read(&l, datadir, e);
    if (rc == 0)
        rc = hba_text(&out, args, e);
    if (rc == 0 && !whole) {
        rc = io_read_file(&old, l.hba_file, CONF_BYTES_MAX, e);
        rc = rc == ERR_NOTFOUND ? 0 : rc;
        cut_block(&old);
        str_append(&out, old.data, old.len);
    }
    if (rc == 0)
        rc = io_write_durable(l.hba_file, out.data, out.len, mode_of(l.hba_file, datadir), e);
    str_free(&old);
    str_free(&out);
    layout_done(&l);
    return rc;
}

/* In a directory that everybody may write in, somebody else may have made ours first, or put a link in its
 * place, and could then let his own server answer there. */
static int
check_own(const char *dir, struct err *e)
{
    struct stat st;
    if (lstat(dir, &st) != 0)
        return err_sys(e, errno, "%s", dir);
    if (S_ISDIR(st.st_mode) && st.st_uid == geteuid() && (st.st_mode & 0077) == 0)
        return 0;
    err_set(e, ERR_REFUSED, "%s, where sockets shall be, is no directory of this user alone", dir);
    return err_hint(e,
                    "find out who has made it; it must be removed, or be a directory of mode 0700");
}

static int
make_socket_dir(const char *dir, struct err *e)
{
    const char *slash = strrchr(dir, '/');
    if (strncmp(dir, SOCKETS_PREFIX, sizeof SOCKETS_PREFIX - 1) != 0)
        return io_make_dirs(dir, 0700, e);
    char *parent = mem_printf("%.*s", (int)(slash - dir), dir);
    int rc = io_make_dirs(parent, 0700, e);
    if (rc == 0)
        rc = check_own(parent, e);
    if (rc == 0)
        rc = io_make_dirs(dir, 0700, e);
    if (rc == 0)
        rc = check_own(dir, e);
    free(parent);
    return rc;
}

/* Takes the include line out, wherever it stands now, and however often. */
static void
cut_include(struct str *text, const char *line)
{
    size_t len = strlen(line);
    for (char *at = text->data; (at = strstr(at, line)) != NULL;) {
        if (at > text->data && at[-1] != '\n') {
            at += len;
            continue;
        }
        memmove(at, at + len, text->len - (size_t)(at - text->data) - len + 1);
        text->len -= len;
    }
}

/* Takes the include line out of a file, or without one moonrise's block. */
static int
rewrite(const char *path, const char *line, struct err *e)
{
    struct str text = STR_INIT;
    int rc = io_read_file(&text, path, CONF_BYTES_MAX, e);
    size_t len = text.len;
    if (rc < 0) {
        str_free(&text);
        return rc == ERR_NOTFOUND ? 0 : rc;
    }
    if (line)
        cut_include(&text, line);
    else
        cut_block(&text);
    if (text.len != len)
        rc = io_write_durable(path, text.data, text.len, mode_of(path, path), e);
    str_free(&text);
    return rc;
}

int
settings_leave(const char *datadir, struct err *e)
{
    char *path = path_join(datadir, "moonrise.conf");
    struct str line = STR_INIT;
    struct layout l;
    int rc = layout_read(&l, datadir, e);
    if (rc == 0) {
        include_line(&line, &l, datadir);
        rc = rewrite(l.config_file, line.data, e);
    }
    if (rc == 0)
        rc = rewrite(l.hba_file, NULL, e);
    if (rc == 0 && (rc = io_unlink_durable(path, e)) == ERR_NOTFOUND)
        rc = 0;
    str_free(&line);
    layout_done(&l);
    free(path);
    return rc;
}

int
settings_socket_dir(const char *datadir, struct err *e)
{
    struct conf c = CONF_INIT;
    int rc = read_conf(&c, datadir, "moonrise.conf", e);
    const char *dir = conf_get(&c, "unix_socket_directories");
    if (rc == 0 && dir && dir[0] == '/' && !strchr(dir, ','))
        rc = make_socket_dir(dir, e);
    conf_done(&c);
    return rc;
}

void
settings_done(struct settings *s)
{
    conf_done(&s->own);
    conf_done(&s->auto_);
}
