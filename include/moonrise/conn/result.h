/*
 * The rows of a query, as text. Borrowed from whoever ran the query.
 */
#ifndef MOONRISE_CONN_RESULT_H
#define MOONRISE_CONN_RESULT_H

#include <stdbool.h>

struct result;

int result_rows(const struct result *r);
int result_columns(const struct result *r);

/* The name of column `column` (0-based). */
const char *result_name(const struct result *r, int column);

/* What a column's texts stand for, by its type: who hands values on gives numbers and truth values as
 * such. */
enum result_kind { RESULT_TEXT, RESULT_BOOL, RESULT_INTEGER, RESULT_REAL, RESULT_LSN };
enum result_kind result_kind(const struct result *r, int column);

/* The text of an integer as a number; false, and it stays text, when a double cannot hold just that one. */
bool result_integer(double *out, const char *text);

/* The text of a field, NULL for SQL NULL. */
const char *result_get(const struct result *r, int row, int column);

/* "UPDATE 3" and the like. */
const char *result_command(const struct result *r);

#endif
