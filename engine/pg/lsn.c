#include "moonrise/pg/lsn.h"

#include "moonrise/base/err.h"

#include <inttypes.h>
#include <stdio.h>

/* Up to eight hexadecimal digits; NULL when there is none, or a ninth. */
static const char *
parse_half(uint32_t *out, const char *p)
{
    uint32_t v = 0;
    int digits = 0;
    for (;; p++, digits++) {
        int d;
        if (*p >= '0' && *p <= '9')
            d = *p - '0';
        else if ((*p | 32) >= 'a' && (*p | 32) <= 'f')
            d = (*p | 32) - 'a' + 10;
        else
            break;
        v = v << 4 | (uint32_t)d;
    }
    *out = v;
    return digits >= 1 && digits <= 8 ? p : NULL;
}

int
lsn_parse(lsn_t *out, const char *text, struct err *e)
{
    uint32_t high, low;
    const char *p = parse_half(&high, text);
    if (p && *p == '/')
        p = parse_half(&low, p + 1);
    else
        p = NULL;
    if (!p || *p != '\0')
        return err_set(e, ERR_FORMAT, "\"%.40s\" is not a WAL position", text);
    *out = (lsn_t)high << 32 | low;
    return 0;
}

char *
lsn_format(char *buf, lsn_t lsn)
{
    snprintf(buf, LSN_TEXT_BYTES, "%" PRIX32 "/%" PRIX32, (uint32_t)(lsn >> 32), (uint32_t)lsn);
    return buf;
}

char *
wal_segment_name(char *buf, uint32_t timeline, lsn_t lsn, uint32_t wal_segment_bytes)
{
    must(wal_segment_bytes != 0);
    uint64_t segment = lsn / wal_segment_bytes;
    uint64_t per_high = UINT64_C(0x100000000) / wal_segment_bytes;
    snprintf(buf, WAL_NAME_BYTES, "%08" PRIX32 "%08" PRIX32 "%08" PRIX32, timeline,
             (uint32_t)(segment / per_high), (uint32_t)(segment % per_high));
    return buf;
}
