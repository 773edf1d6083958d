#include "../lib/fuzz.h"

#include "moonrise/base/err.h"
#include "moonrise/pg/conf.h"

#include <string.h>

/* What was accepted is written and read again, and is the same. */
static void
write_and_read(const struct conf *c)
{
    struct str text = STR_INIT;
    struct conf again = CONF_INIT;
    struct err e;
    conf_format(&text, c);
    must(conf_parse(&again, text.data, text.len, &e) == 0);
    must(again.count == c->count);
    for (size_t i = 0; i < c->count; i++) {
        must(strcmp(again.items[i].name, c->items[i].name) == 0);
        must(strcmp(again.items[i].value, c->items[i].value) == 0);
    }
    conf_done(&again);
    str_free(&text);
}

static void
fuzz_conf(const uint8_t *bytes, size_t len)
{
    struct conf c = CONF_INIT;
    struct err e;
    int rc = conf_parse(&c, (const char *)bytes, len, &e);
    must(rc == 0 || rc == ERR_FORMAT);
    if (rc == 0)
        write_and_read(&c);
    conf_done(&c);
}

FUZZ_DRIVER(fuzz_conf);
