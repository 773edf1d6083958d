#include "command.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"
#include "moonrise/conn/result.h"
#include "moonrise/loop/loop.h"
#include "moonrise/pg/timeline.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { COMMAND_MS = 30000 };

/* Runs a command that answers with one row of at least `columns`. */
static int
run(const struct result **out, struct db *d, const char *command, int columns, struct err *e)
{
    struct statement st = {.sql = command};
    int rc = db_query(d, out, &st, clock_ms() + COMMAND_MS, e);
    if (rc == 0 && (result_rows(*out) != 1 || result_columns(*out) < columns))
        rc = err_set(e, ERR_PROTOCOL, "%d rows of %d columns", result_rows(*out),
                     result_columns(*out));
    if (rc < 0)
        err_wrap(e, "%s", command);
    return rc;
}

int
command_number(uint64_t *out, const char *text, uint64_t most, struct err *e)
{
    char *end = NULL;
    errno = 0;
    uint64_t number = text && *text != '-' ? strtoull(text, &end, 10) : 0;
    if (!end || end == text || *end || errno != 0 || number > most)
        return err_set(e, ERR_PROTOCOL, "\"%.40s\" is no number that makes sense here",
                       text ? text : "");
    *out = number;
    return 0;
}

static int
number_of(uint64_t *out, const struct result *r, int column, uint64_t most, struct err *e)
{
    return command_number(out, result_get(r, 0, column), most, e);
}

static int
lsn_of(lsn_t *out, const struct result *r, int column, struct err *e)
{
    const char *text = result_get(r, 0, column);
    return lsn_parse(out, text ? text : "", e) < 0 ? ERR_PROTOCOL : 0;
}

int
command_identify(struct server_identity *out, struct db *d, struct err *e)
{
    const struct result *r;
    uint64_t timeline;
    int rc = run(&r, d, "IDENTIFY_SYSTEM", 3, e);
    if (rc == 0)
        rc = number_of(&out->system_identifier, r, 0, UINT64_MAX, e);
    if (rc == 0)
        rc = number_of(&timeline, r, 1, UINT32_MAX, e);
    if (rc == 0)
        rc = lsn_of(&out->flushed_lsn, r, 2, e);
    if (rc < 0)
        return rc;
    out->timeline = (uint32_t)timeline;
    if (out->timeline == 0 || out->system_identifier == 0)
        return err_set(e, ERR_PROTOCOL, "IDENTIFY_SYSTEM: no system, or no timeline");
    return 0;
}

int
command_show(struct str *out, struct db *d, const char *setting, struct err *e)
{
    const struct result *r;
    char *command = mem_printf("SHOW %s", setting);
    int rc = run(&r, d, command, 1, e);
    str_clear(out);
    if (rc == 0)
        str_puts(out, result_get(r, 0, 0) ? result_get(r, 0, 0) : "");
    free(command);
    return rc;
}

/* "16MB", as SHOW words a size: a power of two, at most `most` bytes. */
static int
show_size(uint32_t *out, struct db *d, const char *setting, uint32_t most, struct err *e)
{
    static const struct {
        const char *unit;
        uint64_t factor;
    } units[] = {{"", 1}, {"B", 1}, {"kB", 1024}, {"MB", 1 << 20}, {"GB", 1 << 30}};
    struct str text = STR_INIT;
    int rc = command_show(&text, d, setting, e);
    size_t digits = strspn(text.data, "0123456789");
    uint64_t bytes = 0;
    for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
        if (strcmp(text.data + digits, units[i].unit) == 0 && digits > 0 && digits < 12)
            bytes = strtoull(text.data, NULL, 10) * units[i].factor;
    if (rc == 0 && (bytes < 1024 || bytes > most || (bytes & (bytes - 1)) != 0))
        rc = err_set(e, ERR_PROTOCOL, "the server's %s is \"%.40s\"", setting, text.data);
    *out = (uint32_t)bytes;
    str_free(&text);
    return rc;
}

int
command_sizes(struct server_sizes *out, struct db *d, struct err *e)
{
    struct str mode = STR_INIT;
    int rc = show_size(&out->segment_bytes, d, "wal_segment_size", 1 << 30, e);
    if (rc == 0)
        rc = show_size(&out->page_bytes, d, "wal_block_size", 65536, e);
    if (rc == 0 && out->segment_bytes < 1 << 20)
        rc = err_set(e, ERR_PROTOCOL, "the server's segments have %u bytes", out->segment_bytes);
    if (rc == 0)
        rc = command_show(&mode, d, "data_directory_mode", e);
    /* Who may read the server's directory may read what is received from it. */
    out->file_mode = strcmp(mode.data, "0750") == 0 ? 0640 : 0600;
    str_free(&mode);
    return rc;
}

int
command_history(struct str *out, struct db *d, uint32_t timeline, struct err *e)
{
    const struct result *r;
    char name[TIMELINE_NAME_BYTES];
    char *command = mem_printf("TIMELINE_HISTORY %" PRIu32, timeline);
    int rc = run(&r, d, command, 2, e);
    str_clear(out);
    const char *file = rc == 0 ? result_get(r, 0, 0) : NULL;
    const char *text = rc == 0 ? result_get(r, 0, 1) : NULL;
    if (rc == 0 && (!file || !text || strcmp(file, timeline_file_name(name, timeline)) != 0))
        rc = err_set(e, ERR_PROTOCOL, "%s: another file than %s", command, name);
    else if (rc == 0)
        str_puts(out, text);
    free(command);
    return rc;
}

char *
command_quoted(const char *name)
{
    struct str out = STR_INIT;
    str_puts(&out, "\"");
    for (; *name; name++) {
        str_append(&out, name, 1);
        if (*name == '"')
            str_append(&out, name, 1);
    }
    str_puts(&out, "\"");
    return str_take(&out);
}

/* slot_type, restart_lsn, restart_tli; all of them NULL: there is no such slot. */
int
command_slot(lsn_t *lsn_out, uint32_t *timeline_out, struct db *d, const char *slot, struct err *e)
{
    const struct result *r;
    uint64_t timeline = 0;
    char *quoted = command_quoted(slot);
    char *command = mem_printf("READ_REPLICATION_SLOT %s", quoted);
    int rc = run(&r, d, command, 3, e);
    *lsn_out = 0;
    if (rc == 0 && !result_get(r, 0, 0)) {
        err_set(e, ERR_NOTFOUND, "replication slot \"%s\" does not exist", slot);
        rc = err_hint(e, "--create-slot makes it");
    } else if (rc == 0 && result_get(r, 0, 1)) {
        rc = lsn_of(lsn_out, r, 1, e);
        /* A server that has not yet noted the timeline is on the one that it told. */
        if (rc == 0 && result_get(r, 0, 2))
            rc = number_of(&timeline, r, 2, UINT32_MAX, e);
    }
    *timeline_out = (uint32_t)timeline;
    free(command);
    free(quoted);
    return rc;
}
