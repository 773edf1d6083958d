#include "../lib/fuzz.h"

#include "moonrise/base/err.h"
#include "moonrise/pg/pidfile.h"

static void
fuzz_pidfile(const uint8_t *bytes, size_t len)
{
    struct pidfile p;
    struct err e;
    int rc = pidfile_parse(&p, (const char *)bytes, len, &e);
    must(rc == ERR_FORMAT || (rc == 0 && p.pid != 0 && p.datadir && p.status));
    pidfile_done(&p);
}

FUZZ_DRIVER(fuzz_pidfile);
