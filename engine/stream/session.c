#include "session.h"

#include "moonrise/base/err.h"
#include "moonrise/base/io.h"
#include "moonrise/base/path.h"
#include "moonrise/base/str.h"
#include "moonrise/loop/loop.h"
#include "moonrise/pg/version.h"

#include "directory.h"
#include "standby_names.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { HISTORY_MAX_BYTES = 16 << 20 };

#define SLOT_COMMAND_VERSION 150000 /* READ_REPLICATION_SLOT */

static int
connect_server(struct stream_session *s, const struct stream_spec *spec, struct err *e)
{
    const struct conn_params *given = &spec->params;
    size_t n = 0;
    while (given->keywords[n])
        n++;
    const char **keywords = mem_zalloc((n + 3) * sizeof(*keywords));
    const char **values = mem_zalloc((n + 3) * sizeof(*values));
    /* Whatever a service file says: of its name somebody else may be. The caller's own comes later. */
    keywords[0] = "application_name";
    values[0] = "moonrise receivewal";
    for (size_t i = 0; i < n; i++) {
        keywords[i + 1] = given->keywords[i];
        values[i + 1] = given->values[i];
    }
    keywords[n + 1] = "replication";
    values[n + 1] = "true";
    struct conn_params params = {keywords, values};
    int rc = db_open(&s->db, &params, clock_ms() + spec->connect_ms, spec->cancel, e);
    free(keywords);
    free(values);
    return rc;
}

/* SAFETY.md, rule 1. By what the server says the name is, wherever it came from. */
static int
check_name(const struct stream_session *s, const struct stream_spec *spec, struct err *e)
{
    const char *name = db_parameter(s->db, "application_name");
    if (!name) {
        err_set(e, ERR_PROTOCOL, "the server does not report application_name");
        return err_hint(e, "connect to the server itself: a pooler in between may keep that back");
    }
    if (stream_is_mirrors_name(name))
        return err_set(e, ERR_REFUSED, "application_name \"%s\" is a mirror's", name);
    if (!spec->never_synchronous)
        return 0;
    struct str names = STR_INIT;
    int rc = command_show(&names, s->db, "synchronous_standby_names", e);
    if (rc == 0 && standby_names_have(names.data, name)) {
        err_set(e, ERR_REFUSED,
                "the server would count this receiver as synchronous, in its mirror's place: its "
                "synchronous_standby_names is \"%.100s\"",
                names.data);
        rc = err_hint(e, "whoever set that did so behind moonrise's back; see moonrise state -e");
    }
    str_free(&names);
    return rc;
}

static char *
history_path(const struct stream_spec *spec, uint32_t timeline)
{
    char name[TIMELINE_NAME_BYTES];
    return path_join(spec->directory, timeline_file_name(name, timeline));
}

/* A file that is there must be the same: two servers may have been promoted to one timeline apart. */
static int
keep_file(const struct stream_session *s, const char *path, const struct str *text, struct err *e)
{
    struct str old = STR_INIT;
    int rc = io_read_file(&old, path, HISTORY_MAX_BYTES, e);
    if (rc == ERR_NOTFOUND) {
        rc = io_write_durable(path, text->data, text->len, s->sizes.file_mode, e);
    } else if (rc == 0 && strcmp(old.data, text->data) != 0) {
        err_set(e, ERR_REFUSED, "%s is not the server's file of that name", path);
        rc = err_hint(e, "the directory holds WAL of another server that was promoted to the same "
                         "timeline: receive into another one");
    }
    str_free(&old);
    return rc;
}

/* The server's text is looked at before it is anybody's file. */
static int
fetch_history(struct timeline_history *out, struct str *text, struct stream_session *s,
              uint32_t timeline, struct err *e)
{
    memset(out, 0, sizeof(*out));
    int rc = timeline == 1 ? 0 : command_history(text, s->db, timeline, e);
    return rc < 0 ? rc : timeline_parse(out, timeline, text->data, text->len, e);
}

int
session_keep_history(struct stream_session *s, const struct stream_spec *spec, uint32_t timeline,
                     struct err *e)
{
    if (timeline == 1)
        return 0;
    struct timeline_history history;
    struct str text = STR_INIT;
    char *path = history_path(spec, timeline);
    int rc = fetch_history(&history, &text, s, timeline, e);
    if (rc == 0)
        rc = keep_file(s, path, &text, e);
    timeline_history_done(&history);
    str_free(&text);
    free(path);
    return rc;
}

int
session_open(struct stream_session *s, const struct stream_spec *spec, struct err *e)
{
    memset(s, 0, sizeof(*s));
    if (spec->slot && stream_is_mirrors_slot(spec->slot))
        return err_set(e, ERR_REFUSED, "replication slot \"%s\" is a mirror's", spec->slot);
    int rc = connect_server(s, spec, e);
    if (rc == 0)
        rc = version_check(db_server_version(s->db) / 10000, e);
    if (rc == 0)
        rc = check_name(s, spec, e);
    if (rc == 0)
        rc = command_identify(&s->server, s->db, e);
    if (rc == 0 && spec->system_identifier &&
        spec->system_identifier != s->server.system_identifier)
        rc = err_set(e, ERR_REFUSED, "the server is system %" PRIu64 ", not %" PRIu64,
                     s->server.system_identifier, spec->system_identifier);
    return rc < 0 ? rc : command_sizes(&s->sizes, s->db, e);
}

static void
ignored(void *arg, const char *name)
{
    const struct stream_spec *spec = arg;
    struct stream_event event = {.kind = STREAM_IGNORED, .name = name};
    spec->said(spec->arg, &event);
}

/* Where a directory without WAL begins. */
static int
begin_anew(uint32_t *timeline, lsn_t *lsn, struct stream_session *s, const struct stream_spec *spec,
           struct err *e)
{
    *timeline = spec->begin_timeline;
    *lsn = spec->begin_lsn;
    if (*lsn == 0 && spec->slot && db_server_version(s->db) >= SLOT_COMMAND_VERSION) {
        int rc = command_slot(lsn, timeline, s->db, spec->slot, e);
        if (rc < 0)
            return rc;
    }
    if (*lsn == 0)
        *lsn = s->server.flushed_lsn;
    if (*timeline == 0)
        *timeline = s->server.timeline;
    return 0;
}

int
session_begin(uint32_t *timeline, lsn_t *lsn, struct stream_session *s,
              const struct stream_spec *spec, struct err *e)
{
    const struct directory_spec where = {.path = spec->directory,
                                         .segment_bytes = s->sizes.segment_bytes,
                                         .system_identifier = s->server.system_identifier,
                                         .history = &s->history,
                                         .ignored = ignored,
                                         .arg = (void *)spec};
    struct directory_end end;
    struct str text = STR_INIT;
    int rc = fetch_history(&s->history, &text, s, s->server.timeline, e);
    str_free(&text);
    if (rc == 0)
        rc = directory_read(&end, &where, e);
    /* Only now: it may be the directory of another system. */
    if (rc == 0)
        rc = session_keep_history(s, spec, s->server.timeline, e);
    if (rc < 0)
        return rc;
    *timeline = end.timeline;
    *lsn = end.lsn;
    if (!end.found)
        rc = begin_anew(timeline, lsn, s, spec, e);
    return rc < 0 ? rc : directory_follow(timeline, lsn, &where, e);
}

void
session_close(struct stream_session *s)
{
    db_close(s->db);
    timeline_history_done(&s->history);
}
