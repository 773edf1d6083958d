/*
 * A growing string of bytes, always followed by a NUL that is not counted.
 *
 * Caller's storage: `struct str s = STR_INIT;`, then str_free. Running out of memory is fatal.
 */
#ifndef MOONRISE_BASE_STR_H
#define MOONRISE_BASE_STR_H

#include <stddef.h>

struct str {
    char *data; /* never NULL to a reader: STR_INIT points at an empty literal */
    size_t len;
    size_t cap; /* 0 while data is borrowed */
};

#define STR_INIT                                                                                   \
    {                                                                                              \
        .data = (char *)"", .len = 0, .cap = 0                                                     \
    }

void str_init(struct str *s);
/* Makes room for `more` bytes, to be filled in by the caller, behind those that are there. */
void str_reserve(struct str *s, size_t more);
void str_append(struct str *s, const void *bytes, size_t len);
void str_puts(struct str *s, const char *text);
void str_printf(struct str *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void str_clear(struct str *s);
void str_free(struct str *s);

/* Takes the buffer out; the caller frees it with free(). *s is empty afterwards. */
char *str_take(struct str *s);

/* malloc, realloc and strdup that stop the program when there is no memory. */
void *mem_alloc(size_t bytes);
void *mem_zalloc(size_t bytes);
void *mem_realloc(void *p, size_t bytes);
char *mem_strdup(const char *text);
char *mem_printf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* A copy of a NULL-terminated list of texts, in one piece: free it with free(). */
char **mem_words(const char *const *words);

#endif
