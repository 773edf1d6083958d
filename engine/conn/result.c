#include "moonrise/conn/result.h"

#include "pq.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Type oids that never change (src/include/catalog/pg_type.dat). */
enum {
    OID_BOOL = 16,
    OID_INT8 = 20,
    OID_INT2 = 21,
    OID_INT4 = 23,
    OID_OID = 26,
    OID_XID = 28,
    OID_FLOAT4 = 700,
    OID_FLOAT8 = 701,
    OID_NUMERIC = 1700,
    OID_LSN = 3220,
};

int
result_rows(const struct result *r)
{
    return PQntuples(r->pg);
}

int
result_columns(const struct result *r)
{
    return PQnfields(r->pg);
}

const char *
result_name(const struct result *r, int column)
{
    return PQfname(r->pg, column);
}

enum result_kind
result_kind(const struct result *r, int column)
{
    switch (PQftype(r->pg, column)) {
    case OID_BOOL:
        return RESULT_BOOL;
    case OID_INT2:
    case OID_INT4:
    case OID_INT8:
    case OID_OID:
    case OID_XID:
        return RESULT_INTEGER;
    case OID_FLOAT4:
    case OID_FLOAT8:
    case OID_NUMERIC:
        return RESULT_REAL;
    case OID_LSN:
        return RESULT_LSN;
    default:
        return RESULT_TEXT;
    }
}

bool
result_integer(double *out, const char *text)
{
    char back[32];
    *out = strtod(text, NULL);
    snprintf(back, sizeof back, "%.0f", *out);
    return strcmp(back, text) == 0;
}

const char *
result_get(const struct result *r, int row, int column)
{
    return PQgetisnull(r->pg, row, column) ? NULL : PQgetvalue(r->pg, row, column);
}

const char *
result_command(const struct result *r)
{
    return PQcmdStatus(r->pg);
}
