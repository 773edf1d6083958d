#include "moonrise/pg/conf.h"

#include "moonrise/base/err.h"
#include "moonrise/base/io.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { CONF_MAX_BYTES = 16 << 20 };

/* What is being read: [at, end) is left of the text. */
struct scan {
    const char *at;
    const char *end;
    int line;
};

static bool
is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (c & 0x80);
}

static bool
is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* guc-file.l has rules for integers, reals and words; the union of their characters accepts a little
 * more, which the server has then refused already. */
static bool
is_bare(char c)
{
    return is_letter(c) || is_digit(c) || (c && strchr("+-.:/", c));
}

static char
peek(const struct scan *s)
{
    return s->at < s->end ? *s->at : '\n';
}

static void
skip_blanks(struct scan *s)
{
    while (s->at < s->end && strchr(" \t\r", *s->at) && *s->at)
        s->at++;
    if (peek(s) == '#')
        while (s->at < s->end && *s->at != '\n')
            s->at++;
}

/* Letter, then letters, digits, $; twice with a dot between for an extension's setting. */
static size_t
name_length(const char *at, const char *end)
{
    const char *p = at;
    for (int part = 0; part < 2; part++) {
        const char *begin = p;
        if (p == end || !is_letter(*p))
            return part ? (size_t)(begin - 1 - at) : 0;
        while (p < end && (is_letter(*p) || is_digit(*p) || *p == '$'))
            p++;
        if (p == end || *p != '.')
            break;
        if (part == 0)
            p++;
    }
    return (size_t)(p - at);
}

static char
unescape(struct scan *s)
{
    char c = *s->at++;
    switch (c) {
    case 'b':
        return '\b';
    case 'f':
        return '\f';
    case 'n':
        return '\n';
    case 'r':
        return '\r';
    case 't':
        return '\t';
    }
    if (c < '0' || c > '7')
        return c;
    int v = c - '0';
    for (int i = 0; i < 2 && peek(s) >= '0' && peek(s) <= '7'; i++)
        v = v << 3 | (*s->at++ - '0');
    return (char)v;
}

/* Behind the opening quote; false when the line ends first. */
static bool
scan_quoted(struct scan *s, struct str *out)
{
    for (;;) {
        char c = peek(s);
        if (c == '\n')
            return false;
        s->at++;
        if (c == '\'') {
            if (peek(s) != '\'')
                return true;
            s->at++;
        } else if (c == '\\') {
            if (peek(s) == '\n')
                return false;
            c = unescape(s);
        }
        /* An escaped NUL would cut the value short unnoticed; the server's scanner has the same limit. */
        if (c == '\0')
            return false;
        str_append(out, &c, 1);
    }
}

static bool
scan_value(struct scan *s, struct str *out)
{
    if (peek(s) == '\'') {
        s->at++;
        return scan_quoted(s, out);
    }
    const char *begin = s->at;
    while (s->at < s->end && is_bare(*s->at))
        s->at++;
    str_append(out, begin, (size_t)(s->at - begin));
    return s->at > begin;
}

static void
append_item(struct conf *c, char *name_take, char *value_take)
{
    c->items = mem_realloc(c->items, (c->count + 1) * sizeof(*c->items));
    c->items[c->count++] = (struct conf_item){.name = name_take, .value = value_take};
}

/* One line, up to its end; false when it makes no sense. */
static bool
scan_line(struct conf *c, struct scan *s)
{
    skip_blanks(s);
    if (peek(s) == '\n')
        return true;
    size_t len = name_length(s->at, s->end);
    if (len == 0)
        return false;
    struct str name = STR_INIT, value = STR_INIT;
    str_append(&name, s->at, len);
    s->at += len;
    skip_blanks(s);
    if (peek(s) == '=') {
        s->at++;
        skip_blanks(s);
    }
    bool ok = scan_value(s, &value);
    skip_blanks(s);
    if (ok && peek(s) == '\n') {
        append_item(c, str_take(&name), str_take(&value));
        return true;
    }
    str_free(&name);
    str_free(&value);
    return false;
}

int
conf_parse(struct conf *c, const char *text, size_t len, struct err *e)
{
    struct scan s = {.at = text, .end = text + len, .line = 1};
    for (; s.at < s.end; s.at++, s.line++) {
        if (!scan_line(c, &s))
            return err_set(e, ERR_FORMAT, "line %d is no setting", s.line);
        if (s.at >= s.end)
            break;
    }
    return 0;
}

int
conf_read(struct conf *c, const char *path, struct err *e)
{
    struct str text = STR_INIT;
    int rc = io_read_file(&text, path, CONF_MAX_BYTES, e);
    if (rc == 0 && (rc = conf_parse(c, text.data, text.len, e)) < 0)
        err_wrap(e, "%s", path);
    str_free(&text);
    return rc;
}

const char *
conf_get(const struct conf *c, const char *name)
{
    for (size_t i = c->count; i-- > 0;)
        if (strcasecmp(c->items[i].name, name) == 0)
            return c->items[i].value;
    return NULL;
}

/* Removes the occurrences of a name from index `from` on. */
static void
remove_from(struct conf *c, const char *name, size_t from)
{
    size_t kept = from;
    for (size_t i = from; i < c->count; i++) {
        if (strcasecmp(c->items[i].name, name) == 0) {
            free(c->items[i].name);
            free(c->items[i].value);
        } else {
            c->items[kept++] = c->items[i];
        }
    }
    c->count = kept;
}

void
conf_remove(struct conf *c, const char *name)
{
    if (c->count)
        remove_from(c, name, 0);
}

int
conf_set(struct conf *c, const char *name, const char *value, struct err *e)
{
    size_t len = strlen(name);
    if (len == 0 || name_length(name, name + len) != len)
        return err_set(e, ERR_ARGUMENT, "\"%s\" is not the name of a setting", name);
    if (strpbrk(value, "\r\n"))
        return err_set(e, ERR_ARGUMENT, "the value of %s has a line end in it", name);
    for (size_t i = 0; i < c->count; i++) {
        if (strcasecmp(c->items[i].name, name) != 0)
            continue;
        char *copy = mem_strdup(value);
        free(c->items[i].value);
        c->items[i].value = copy;
        remove_from(c, name, i + 1);
        return 0;
    }
    append_item(c, mem_strdup(name), mem_strdup(value));
    return 0;
}

void
conf_quote(struct str *out, const char *value)
{
    str_puts(out, "'");
    for (const char *p = value; *p; p++) {
        if (*p == '\'' || *p == '\\')
            str_append(out, p, 1);
        /* Only a value that was read can hold line ends (as \n). */
        if (*p == '\n')
            str_puts(out, "\\n");
        else
            str_append(out, p, 1);
    }
    str_puts(out, "'");
}

void
conf_format(struct str *out, const struct conf *c)
{
    for (size_t i = 0; i < c->count; i++) {
        str_printf(out, "%s = ", c->items[i].name);
        conf_quote(out, c->items[i].value);
        str_puts(out, "\n");
    }
}

int
conf_write(const struct conf *c, const char *path, const char *header, mode_t mode, struct err *e)
{
    struct str text = STR_INIT;
    if (header)
        str_puts(&text, header);
    conf_format(&text, c);
    int rc = io_write_durable(path, text.data, text.len, mode, e);
    str_free(&text);
    return rc;
}

void
conf_done(struct conf *c)
{
    for (size_t i = 0; i < c->count; i++) {
        free(c->items[i].name);
        free(c->items[i].value);
    }
    free(c->items);
    *c = (struct conf)CONF_INIT;
}
