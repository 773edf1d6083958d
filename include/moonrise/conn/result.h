/*
 * The rows of a query, as text. Borrowed from whoever ran the query.
 */
#ifndef MOONRISE_CONN_RESULT_H
#define MOONRISE_CONN_RESULT_H

#include <stdint.h>

struct result;

int result_rows(const struct result *r);
int result_columns(const struct result *r);

/* The name of column `column` (0-based). */
const char *result_name(const struct result *r, int column);

/* PostgreSQL's type oid of a column; Lua turns the numeric and boolean ones into numbers and booleans. */
uint32_t result_type(const struct result *r, int column);

/* The text of a field, NULL for SQL NULL. */
const char *result_get(const struct result *r, int row, int column);

/* "UPDATE 3" and the like. */
const char *result_command(const struct result *r);

#endif
