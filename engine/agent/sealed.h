/*
 * Small files of name = 'value' lines whose last line is the CRC-32C of those before it: epochs and records.
 * Any thread.
 */
#ifndef AGENT_SEALED_H
#define AGENT_SEALED_H

#include "moonrise/base/str.h"
#include "moonrise/pg/conf.h"

#include <stdbool.h>

/* Appends the lines of a sealed text to *c. False when it is torn, changed, or no such text. */
bool sealed_parse(struct conf *c, const struct str *text);

/* Appends the lines and their seal. */
void sealed_format(struct str *out, const struct conf *c);

#endif
