#include "moonrise/base/str.h"

#include "moonrise/base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void
str_init(struct str *s)
{
    *s = (struct str)STR_INIT;
}

void
str_reserve(struct str *s, size_t more)
{
    if (s->cap > s->len + more)
        return;
    size_t cap = s->cap ? s->cap : 64;
    while (cap <= s->len + more)
        cap *= 2;
    char *data = mem_realloc(s->cap ? s->data : NULL, cap);
    if (!s->cap)
        data[0] = '\0';
    s->data = data;
    s->cap = cap;
}

void
str_append(struct str *s, const void *bytes, size_t len)
{
    if (len == 0)
        return;
    str_reserve(s, len);
    memcpy(s->data + s->len, bytes, len);
    s->len += len;
    s->data[s->len] = '\0';
}

void
str_puts(struct str *s, const char *text)
{
    str_append(s, text, strlen(text));
}

static void
str_vprintf(struct str *s, const char *fmt, va_list ap)
{
    va_list again;
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, again);
    va_end(again);
    must(n >= 0);
    str_reserve(s, (size_t)n);
    vsnprintf(s->data + s->len, (size_t)n + 1, fmt, ap);
    s->len += (size_t)n;
}

void
str_printf(struct str *s, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    str_vprintf(s, fmt, ap);
    va_end(ap);
}

void
str_clear(struct str *s)
{
    s->len = 0;
    if (s->cap)
        s->data[0] = '\0';
}

void
str_free(struct str *s)
{
    if (s->cap)
        free(s->data);
    str_init(s);
}

char *
str_take(struct str *s)
{
    char *data = s->cap ? s->data : mem_strdup("");
    str_init(s);
    return data;
}

void *
mem_realloc(void *p, size_t bytes)
{
    void *q = realloc(p, bytes ? bytes : 1);
    if (!q) {
        fprintf(stderr, "moonrise: out of memory (%zu bytes)\n", bytes);
        abort();
    }
    return q;
}

void *
mem_alloc(size_t bytes)
{
    return mem_realloc(NULL, bytes);
}

void *
mem_zalloc(size_t bytes)
{
    return memset(mem_alloc(bytes), 0, bytes);
}

char *
mem_strdup(const char *text)
{
    size_t len = strlen(text) + 1;
    return memcpy(mem_alloc(len), text, len);
}

char *
mem_printf(const char *fmt, ...)
{
    struct str text = STR_INIT;
    va_list ap;
    va_start(ap, fmt);
    str_vprintf(&text, fmt, ap);
    va_end(ap);
    return str_take(&text);
}

char **
mem_words(const char *const *words)
{
    size_t count = 0, bytes = 0;
    for (; words[count]; count++)
        bytes += strlen(words[count]) + 1;
    char **copy = mem_alloc((count + 1) * sizeof(*copy) + bytes);
    char *text = (char *)(copy + count + 1);
    for (size_t i = 0; i < count; i++) {
        copy[i] = text;
        text = stpcpy(text, words[i]) + 1;
    }
    copy[count] = NULL;
    return copy;
}
