#include "conninfo.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"

#include <ctype.h>
#include <stdbool.h>
#include <string.h>

/* One word: KEY = VALUE, both as they stand. */
struct word {
    const char *key, *value;
    size_t key_len, value_len;
};

static const char *
skip_space(const char *p)
{
    while (isspace((unsigned char)*p))
        p++;
    return p;
}

/* The end of a value, or NULL when its quote is never closed. See conninfo_parse in libpq's fe-connect.c. */
static const char *
value_end(const char *p)
{
    if (*p != '\'') {
        while (*p && !isspace((unsigned char)*p))
            p += *p == '\\' && p[1] ? 2 : 1;
        return p;
    }
    for (p++; *p && *p != '\''; p++) {
        if (*p == '\\' && p[1])
            p++;
    }
    return *p == '\'' ? p + 1 : NULL;
}

/* Reads one word; NULL when there is none. */
static const char *
next_word(struct word *w, const char *p)
{
    w->key = p = skip_space(p);
    while (*p && *p != '=' && !isspace((unsigned char)*p))
        p++;
    w->key_len = (size_t)(p - w->key);
    p = skip_space(p);
    if (*p != '=' || w->key_len == 0)
        return NULL;
    w->value = p = skip_space(p + 1);
    p = value_end(p);
    if (p)
        w->value_len = (size_t)(p - w->value);
    return p;
}

static void
put(struct str *out, const char *key, const char *value)
{
    str_printf(out, "%s%s='", out->len ? " " : "", key);
    for (; *value; value++) {
        if (*value == '\'' || *value == '\\')
            str_puts(out, "\\");
        str_append(out, value, 1);
    }
    str_puts(out, "'");
}

int
conninfo_set(struct str *out, const char *conninfo, const char *key, const char *value,
             struct err *e)
{
    bool done = false;
    for (const char *p = skip_space(conninfo); *p; p = skip_space(p)) {
        struct word w;
        p = next_word(&w, p);
        if (!p)
            return err_set(e, ERR_FORMAT, "primary_conninfo is no list of keywords and values");
        if (w.key_len == strlen(key) && memcmp(w.key, key, w.key_len) == 0) {
            if (!done)
                put(out, key, value);
            done = true;
            continue;
        }
        str_printf(out, "%s%.*s=%.*s", out->len ? " " : "", (int)w.key_len, w.key, (int)w.value_len,
                   w.value);
    }
    if (!done)
        put(out, key, value);
    return 0;
}
