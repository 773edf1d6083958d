#include "moonrise/pg/version.h"

#include "moonrise/base/err.h"
#include "moonrise/base/io.h"
#include "moonrise/base/path.h"

#include <stdio.h>
#include <stdlib.h>

static const struct {
    int major;
    int minor_waits; /* the first minor whose commits wait from the start */
    uint16_t wal_magic;
} known[] = {
    {13, 21, 0xD106},
    {14, 18, 0xD10D},
    {15, 13, 0xD110},
    {16, 9, 0xD113},
};

#define KNOWN (sizeof(known) / sizeof(known[0]))

int
version_check(int major, struct err *e)
{
    for (size_t i = 0; i < KNOWN; i++)
        if (known[i].major == major)
            return 0;
    return err_set(e, ERR_VERSION, "PostgreSQL %d is not known (%d to %d are)", major,
                   VERSION_OLDEST, VERSION_NEWEST);
}

static int
parse_major(int *out, const struct str *text, struct err *e)
{
    char *end;
    long major = strtol(text->data, &end, 10);
    if (end == text->data || major < 1 || major > 1000)
        return err_set(e, ERR_FORMAT, "it holds no version");
    /* Before 10 a major version had two numbers ("9.6"). */
    if (*end == '.')
        return err_set(e, ERR_VERSION, "PostgreSQL %ld.%ld is not known (%d to %d are)", major,
                       strtol(end + 1, NULL, 10), VERSION_OLDEST, VERSION_NEWEST);
    if (*end != '\n' && *end != '\0')
        return err_set(e, ERR_FORMAT, "it holds no version");
    *out = (int)major;
    return version_check(*out, e);
}

int
version_read(int *major_out, const char *datadir, struct err *e)
{
    struct str text = STR_INIT;
    char *path = path_join(datadir, "PG_VERSION");
    int rc = io_read_file(&text, path, 64, e);
    if (rc == ERR_LIMIT)
        rc = err_set(e, ERR_FORMAT, "%s: it holds no version", path);
    else if (rc == 0 && (rc = parse_major(major_out, &text, e)) < 0)
        err_wrap(e, "%s", path);
    free(path);
    str_free(&text);
    return rc;
}

char *
version_text(char *buf, int version_num)
{
    snprintf(buf, VERSION_TEXT_BYTES, "%d.%d", version_num / 10000, version_num % 10000);
    return buf;
}

bool
version_sync_from_start(int version_num)
{
    int major = version_num / 10000;
    for (size_t i = 0; i < KNOWN; i++)
        if (known[i].major == major)
            return version_num % 10000 >= known[i].minor_waits;
    return major > VERSION_NEWEST;
}

int
version_of_wal_magic(uint16_t magic)
{
    for (size_t i = 0; i < KNOWN; i++)
        if (known[i].wal_magic == magic)
            return known[i].major;
    return 0;
}
