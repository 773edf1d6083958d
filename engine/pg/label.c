#include "moonrise/pg/label.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Finds the line that begins with `key` and copies what follows (at most cap - 1 bytes, without the line
 * end) into buf; false when there is none or it is too long. */
static bool
find_line(const char *text, const char *key, char *buf, size_t cap)
{
    size_t key_len = strlen(key);
    for (const char *line = text; *line;) {
        const char *end = strchrnul(line, '\n');
        if (strncmp(line, key, key_len) == 0) {
            size_t len = (size_t)(end - line) - key_len;
            if (len >= cap)
                return false;
            memcpy(buf, line + key_len, len);
            buf[len] = '\0';
            return true;
        }
        line = *end ? end + 1 : end;
    }
    return false;
}

static int
missing(const char *what, struct err *e)
{
    return err_set(e, ERR_FORMAT, "backup_label: no valid line \"%s\"", what);
}

/* "0/2000028 (file 000000010000000000000002)" */
static int
parse_start(struct label *out, char *line, struct err *e)
{
    char *space = strchr(line, ' ');
    if (space)
        *space = '\0';
    if (!space || lsn_parse(&out->start_lsn, line, NULL) < 0)
        return missing("START WAL LOCATION", e);
    char name[WAL_NAME_BYTES];
    char tail;
    if (sscanf(space + 1, "(file %24[0-9A-F]%c", name, &tail) != 2 || tail != ')' ||
        strlen(name) != WAL_NAME_BYTES - 1)
        return missing("START WAL LOCATION", e);
    name[8] = '\0';
    out->timeline = (uint32_t)strtoul(name, NULL, 16);
    return 0;
}

static int
parse_timeline(const struct label *label, const char *line, struct err *e)
{
    char *end;
    unsigned long long timeline = strtoull(line, &end, 10);
    if (end == line || *end != '\0')
        return missing("START TIMELINE", e);
    if (timeline != label->timeline)
        return err_set(e, ERR_FORMAT, "backup_label: timelines %" PRIu32 " and %llu",
                       label->timeline, timeline);
    return 0;
}

static int
parse_lines(struct label *out, const char *text, struct err *e)
{
    char line[128];
    if (!find_line(text, "START WAL LOCATION: ", line, sizeof(line)))
        return missing("START WAL LOCATION", e);
    int rc = parse_start(out, line, e);
    if (rc < 0)
        return rc;
    if (!find_line(text, "CHECKPOINT LOCATION: ", line, sizeof(line)) ||
        lsn_parse(&out->checkpoint_lsn, line, NULL) < 0)
        return missing("CHECKPOINT LOCATION", e);
    if (find_line(text, "INCREMENTAL FROM ", line, sizeof(line)))
        return err_set(e, ERR_VERSION, "backup_label is of an incremental backup");
    if (find_line(text, "BACKUP METHOD: ", line, sizeof(line))) {
        out->streamed = strcmp(line, "streamed") == 0;
        out->rewound = strcmp(line, "pg_rewind") == 0;
    }
    if (find_line(text, "BACKUP FROM: ", line, sizeof(line)))
        out->from_standby = strcmp(line, "standby") == 0;
    if (find_line(text, "START TIMELINE: ", line, sizeof(line)))
        return parse_timeline(out, line, e);
    return 0;
}

int
label_parse(struct label *out, const char *text, size_t len, struct err *e)
{
    memset(out, 0, sizeof(*out));
    /* A copy that ends in a NUL; anything behind a NUL inside is no label's text. */
    struct str copy = STR_INIT;
    str_append(&copy, text, len);
    int rc = parse_lines(out, copy.data, e);
    str_free(&copy);
    return rc;
}
