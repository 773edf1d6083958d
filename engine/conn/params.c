#include "moonrise/conn/conn.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"

#include <libpq-fe.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void
conn_clear_environment(void)
{
    for (char **entry = environ; entry && *entry;) {
        size_t len = strcspn(*entry, "=");
        if (strncmp(*entry, "PG", 2) != 0) {
            entry++;
            continue;
        }
        char *name = mem_printf("%.*s", (int)len, *entry);
        unsetenv(name);
        free(name);
        entry = environ;
    }
}

int
conn_params_parse(struct conn_params *out, const char *text, struct err *e)
{
    char *words = NULL;
    PQconninfoOption *options = PQconninfoParse(text, &words);
    if (!options) {
        err_set(e, ERR_ARGUMENT, "connection string: %.*s", words ? (int)strcspn(words, "\n") : 0,
                words ? words : "");
        PQfreemem(words);
        return ERR_ARGUMENT;
    }
    size_t n = 0;
    while (options[n].keyword)
        n++;
    const char **keywords = mem_zalloc((n + 1) * sizeof(*keywords));
    const char **values = mem_zalloc((n + 1) * sizeof(*values));
    size_t used = 0;
    for (size_t i = 0; i < n; i++) {
        if (!options[i].val)
            continue;
        keywords[used] = mem_strdup(options[i].keyword);
        values[used++] = mem_strdup(options[i].val);
    }
    PQconninfoFree(options);
    *out = (struct conn_params){keywords, values};
    return 0;
}

void
conn_params_copy(struct conn_params *out, const struct conn_params *from)
{
    size_t n = 0;
    while (from->keywords[n])
        n++;
    const char **keywords = mem_zalloc((n + 1) * sizeof(*keywords));
    const char **values = mem_zalloc((n + 1) * sizeof(*values));
    for (size_t i = 0; i < n; i++) {
        keywords[i] = mem_strdup(from->keywords[i]);
        values[i] = from->values[i] ? mem_strdup(from->values[i]) : NULL;
    }
    *out = (struct conn_params){keywords, values};
}

void
conn_params_free(struct conn_params *params)
{
    for (size_t i = 0; params->keywords && params->keywords[i]; i++) {
        free((char *)params->keywords[i]);
        free((char *)params->values[i]);
    }
    free((void *)params->keywords);
    free((void *)params->values);
    *params = (struct conn_params){NULL, NULL};
}
