#include "moonrise/conn/result.h"

#include "pq.h"

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

uint32_t
result_type(const struct result *r, int column)
{
    return PQftype(r->pg, column);
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
