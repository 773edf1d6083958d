#include "sealed.h"

#include "moonrise/base/crc32c.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

bool
sealed_parse(struct conf *c, const struct str *text)
{
    const char *last = text->len == strlen(text->data) ? strstr(text->data, "\ncrc = '") : NULL;
    if (!last)
        return false;
    size_t len = (size_t)(last + 1 - text->data);
    char want[32];
    snprintf(want, sizeof want, "crc = '%08" PRIx32 "'\n", crc32c(0, text->data, len));
    return strcmp(last + 1, want) == 0 && conf_parse(c, text->data, len, NULL) == 0;
}

void
sealed_format(struct str *out, const struct conf *c)
{
    size_t begin = out->len;
    conf_format(out, c);
    uint32_t crc = crc32c(0, out->data + begin, out->len - begin);
    str_printf(out, "crc = '%08" PRIx32 "'\n", crc);
}
