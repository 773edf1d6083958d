#include "../lib/fuzz.h"

#include "moonrise/base/err.h"
#include "moonrise/pg/label.h"

static void
fuzz_label(const uint8_t *bytes, size_t len)
{
    struct label l;
    struct err e;
    int rc = label_parse(&l, (const char *)bytes, len, &e);
    must(rc == 0 || rc == ERR_FORMAT || rc == ERR_VERSION);
}

FUZZ_DRIVER(fuzz_label);
