#include "moonrise/pg/timeline.h"

#include "moonrise/base/err.h"
#include "moonrise/base/io.h"
#include "moonrise/base/path.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HISTORY_MAX_BYTES = 16 << 20 };

static void
add_span(struct timeline_history *h, uint32_t timeline, lsn_t end)
{
    lsn_t begin = h->count ? h->spans[h->count - 1].end : 0;
    h->spans = mem_realloc(h->spans, (h->count + 1) * sizeof(*h->spans));
    h->spans[h->count++] = (struct timeline_span){.timeline = timeline, .begin = begin, .end = end};
}

/* "1\t0/3000148\tno recovery target specified"; the reason is for people. */
static int
parse_line(struct timeline_history *h, char *line, struct err *e)
{
    char *p = line + strspn(line, " \t\r");
    if (*p == '\0' || *p == '#')
        return 0;
    char *end;
    errno = 0;
    unsigned long timeline = strtoul(p, &end, 10);
    if (end == p || errno != 0 || timeline == 0 || timeline > UINT32_MAX || *p == '-')
        return err_set(e, ERR_FORMAT, "\"%.60s\" does not begin with a timeline", line);
    p = end + strspn(end, " \t");
    p[strcspn(p, " \t\r")] = '\0';
    lsn_t lsn;
    if (lsn_parse(&lsn, p, e) < 0)
        return ERR_FORMAT;
    const struct timeline_span *last = h->count ? &h->spans[h->count - 1] : NULL;
    if (last && (timeline <= last->timeline || lsn < last->end))
        return err_set(e, ERR_FORMAT, "timeline %lu does not follow timeline %" PRIu32, timeline,
                       last->timeline);
    add_span(h, (uint32_t)timeline, lsn);
    return 0;
}

static int
parse_lines(struct timeline_history *h, uint32_t timeline, char *text, struct err *e)
{
    for (char *line = text; line;) {
        char *next = strchr(line, '\n');
        if (next)
            *next++ = '\0';
        int rc = parse_line(h, line, e);
        if (rc < 0)
            return rc;
        line = next;
    }
    if (h->count && h->spans[h->count - 1].timeline >= timeline)
        return err_set(e, ERR_FORMAT, "it names timeline %" PRIu32,
                       h->spans[h->count - 1].timeline);
    add_span(h, timeline, TIMELINE_NO_END);
    return 0;
}

int
timeline_parse(struct timeline_history *out, uint32_t timeline, const char *text, size_t len,
               struct err *e)
{
    memset(out, 0, sizeof(*out));
    struct str copy = STR_INIT;
    str_append(&copy, text, len);
    char *bytes = str_take(&copy);
    int rc = parse_lines(out, timeline, bytes, e);
    free(bytes);
    if (rc < 0) {
        err_wrap(e, "history of timeline %" PRIu32, timeline);
        timeline_history_done(out);
    }
    return rc;
}

char *
timeline_file_name(char *buf, uint32_t timeline)
{
    snprintf(buf, TIMELINE_NAME_BYTES, "%08" PRIX32 ".history", timeline);
    return buf;
}

int
timeline_read(struct timeline_history *out, const char *wal_dir, uint32_t timeline, struct err *e)
{
    memset(out, 0, sizeof(*out));
    if (timeline == 1)
        return timeline_parse(out, timeline, "", 0, e);
    char name[TIMELINE_NAME_BYTES];
    char *path = path_join(wal_dir, timeline_file_name(name, timeline));
    struct str text = STR_INIT;
    int rc = io_read_file(&text, path, HISTORY_MAX_BYTES, e);
    if (rc == 0 && (rc = timeline_parse(out, timeline, text.data, text.len, e)) < 0)
        err_wrap(e, "%s", path);
    str_free(&text);
    free(path);
    return rc;
}

/* The timeline of a history file's name; 0 for any other name. */
static uint32_t
history_of(const char *name)
{
    if (strlen(name) != TIMELINE_NAME_BYTES - 1 || strspn(name, "0123456789ABCDEF") != 8 ||
        strcmp(name + 8, ".history") != 0)
        return 0;
    return (uint32_t)strtoul(name, NULL, 16);
}

int
timeline_newest(uint32_t *out, const char *wal_dir, struct err *e)
{
    DIR *dir = opendir(wal_dir);
    if (!dir)
        return err_sys(e, errno, "%s", wal_dir);
    *out = 1;
    struct dirent *entry;
    while (errno = 0, (entry = readdir(dir)) != NULL) {
        uint32_t timeline = history_of(entry->d_name);
        if (timeline > *out)
            *out = timeline;
    }
    int rc = errno != 0 ? err_sys(e, errno, "%s", wal_dir) : 0;
    closedir(dir);
    return rc;
}

uint32_t
timeline_at(const struct timeline_history *h, lsn_t lsn)
{
    must(h->count > 0);
    size_t i = 0;
    while (i + 1 < h->count && lsn > h->spans[i].end)
        i++;
    return h->spans[i].timeline;
}

int
timeline_fork(struct timeline_span *out, const struct timeline_history *a,
              const struct timeline_history *b, struct err *e)
{
    size_t common = 0;
    while (common < a->count && common < b->count &&
           a->spans[common].timeline == b->spans[common].timeline &&
           a->spans[common].begin == b->spans[common].begin)
        common++;
    if (common == 0)
        return err_set(e, ERR_NOTFOUND, "the two histories have no timeline in common");
    *out = a->spans[common - 1];
    /* One of them may have left this timeline where the other one stayed on it. */
    if (b->spans[common - 1].end < out->end)
        out->end = b->spans[common - 1].end;
    return 0;
}

void
timeline_history_done(struct timeline_history *h)
{
    free(h->spans);
    memset(h, 0, sizeof(*h));
}
