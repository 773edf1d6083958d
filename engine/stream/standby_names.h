/*
 * Whom a server's synchronous_standby_names counts (src/backend/replication/syncrep.c and its grammar).
 * Private to engine/stream. Any thread.
 */
#ifndef MOONRISE_ENGINE_STREAM_STANDBY_NAMES_H
#define MOONRISE_ENGINE_STREAM_STANDBY_NAMES_H

#include <stdbool.h>

/* Whether a standby of this application_name is among them: named, in any case of letters, or by "*". */
bool standby_names_have(const char *names, const char *application_name);

#endif
