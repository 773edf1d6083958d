#include "../lib/fuzz.h"

#include "moonrise/base/err.h"
#include "moonrise/pg/timeline.h"

static void
fuzz_timeline(const uint8_t *bytes, size_t len)
{
    struct timeline_history h;
    struct timeline_span fork;
    struct err e;
    int rc = timeline_parse(&h, 77, (const char *)bytes, len, &e);
    must(rc == ERR_FORMAT || (rc == 0 && h.count > 0 && timeline_at(&h, len) > 0));
    if (rc == 0)
        must(timeline_fork(&fork, &h, &h, &e) == 0 && fork.timeline == 77);
    timeline_history_done(&h);
}

FUZZ_DRIVER(fuzz_timeline);
