#include "source.h"

#include "moonrise/base/err.h"
#include "moonrise/base/io.h"
#include "moonrise/conn/db.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int
source_open(struct source *s, struct order *o, struct err *e)
{
    const struct message *args = message_object(o->args, "source");
    const char *datadir;
    *s = (struct source){.o = o};
    if (!args)
        return err_set(e, ERR_PROTOCOL, "'source' is missing");
    s->host = message_text(args, "host", NULL);
    s->kind = s->host ? &source_remote : &source_here;
    int rc = message_need_text(args, "datadir", &datadir, e);
    if (rc == 0)
        rc = message_need_text(o->args, "slot", &s->slot, e);
    if (rc == 0)
        rc = s->kind->open(s, args, e);
    if (rc < 0)
        return err_wrap(e, "source%s%s", s->host ? " on " : "", s->host ? s->host : "");
    return 0;
}

int
source_begin(struct source *s, struct err *e)
{
    return s->kind->begin(s, e);
}

/* Whether an error says that the session is gone: 57P01 to 57P03 are a server's last words to it. */
static bool
source_is_lost(int rc, const struct err *e)
{
    return rc == ERR_CONNECT || rc == ERR_TIMEOUT || strncmp(e->sqlstate, "57P", 3) == 0;
}

/* Whatever was asked of the session, its loss is told as one. */
static int
source_told(const struct source *s, int rc, struct err *e)
{
    if (rc < 0 && e && source_is_lost(rc, e)) {
        err_wrap(e, "the backup session with the source %s", s->datadir);
        err_hint(e, "once the source runs, run the recovery again: it goes on where it was");
    }
    return rc;
}

int
source_check(struct source *s, struct err *e)
{
    return source_told(s, s->kind->check(s, e), e);
}

int
source_keep(struct source *s, struct source_wal *wal, struct err *e)
{
    return source_told(s, s->kind->keep(s, wal, e), e);
}

int
source_end(struct source *s, struct err *e)
{
    return source_told(s, s->kind->end(s, e), e);
}

int
source_spaces(struct source *s, struct err *e)
{
    return s->kind->spaces(s, e);
}

int
source_files(struct source *s, struct err *e)
{
    return s->kind->files(s, e);
}

int
source_lives(bool *out, struct source *s, struct err *e)
{
    return s->kind->lives(out, s, e);
}

const struct str *
source_file(const struct source *s, const char *name)
{
    for (size_t i = 0; i < s->file_count; i++) {
        if (strcmp(s->files[i].name, name) == 0)
            return &s->files[i].text;
    }
    return NULL;
}

bool
source_is_at(const struct source *s, const struct source_place *place, const char *path)
{
    struct stat st;
    return s->same_machine && place->ino && stat(path, &st) == 0 &&
           (uint64_t)st.st_dev == place->dev && (uint64_t)st.st_ino == place->ino;
}

void
source_place_read(struct source_place *place, const char *path)
{
    struct stat st;
    *place = (struct source_place){.path = mem_strdup(path)};
    if (stat(path, &st) == 0) {
        place->dev = (uint64_t)st.st_dev;
        place->ino = (uint64_t)st.st_ino;
    }
}

void
source_add_space(struct source *s, const struct source_space *take)
{
    s->spaces = mem_realloc(s->spaces, (s->space_count + 1) * sizeof *s->spaces);
    s->spaces[s->space_count++] = *take;
}

void
source_add_file_take(struct source *s, const char *name, struct str *text)
{
    s->files = mem_realloc(s->files, (s->file_count + 1) * sizeof *s->files);
    s->files[s->file_count++] = (struct source_file){.name = mem_strdup(name), .text = *text};
    str_init(text);
}

/* The machine's, or rather its kernel's: containers have the same one, and the same devices. */
char *
source_boot_id(void)
{
    struct str text = STR_INIT;
    if (io_read_file(&text, "/proc/sys/kernel/random/boot_id", 4096, NULL) < 0)
        return mem_strdup("");
    return str_take(&text);
}

void
source_forget(struct source *s)
{
    for (size_t i = 0; i < s->space_count; i++) {
        free(s->spaces[i].oid);
        free(s->spaces[i].path);
        free(s->spaces[i].place.path);
    }
    for (size_t i = 0; i < s->file_count; i++) {
        free(s->files[i].name);
        str_free(&s->files[i].text);
    }
    free(s->spaces);
    free(s->files);
    s->spaces = NULL;
    s->files = NULL;
    s->space_count = s->file_count = 0;
}

void
source_close(struct source *s)
{
    db_close(s->db);
    if (s->connected)
        remote_close(&s->remote);
    remote_relay_close(&s->relay);
    source_forget(s);
    free(s->home.path);
    free(s->boot_id);
    free(s->datadir);
    free(s->label);
    *s = (struct source){0};
}
