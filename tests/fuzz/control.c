#include "../lib/fuzz.h"

#include "moonrise/base/bytes.h"
#include "moonrise/base/crc32c.h"
#include "moonrise/base/err.h"
#include "moonrise/pg/control.h"

#include <string.h>

static void
fuzz_control(const uint8_t *bytes, size_t len)
{
    struct control c;
    struct err e;
    uint8_t image[512] = {0};
    if (control_parse(&c, bytes, len, &e) == 0)
        must(c.block_bytes && c.wal_segment_bytes && control_state_name(c.state));
    /* Again with a checksum that is right, or the noise gets no further than that. */
    memcpy(image, bytes, len < 288 ? len : 288);
    bytes_put32(image + 8, 1300);
    bytes_put32(image + 288, crc32c(0, image, 288));
    int rc = control_parse(&c, image, sizeof(image), &e);
    must(rc == 0 || rc == ERR_FORMAT);
    must(rc != 0 || c.wal_block_bytes <= c.wal_segment_bytes);
}

FUZZ_DRIVER(fuzz_control);
