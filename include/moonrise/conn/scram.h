/*
 * What a server stores instead of a password (RFC 5802, RFC 7677; PostgreSQL's scram-common.c): made here,
 * so that the password itself is never sent to a server, whose logs may keep every statement.
 */
#ifndef MOONRISE_CONN_SCRAM_H
#define MOONRISE_CONN_SCRAM_H

/* The secret of a password, "SCRAM-SHA-256$1:SALT$STORED:SERVER" with a random salt; free with free().
 *
 * Of one iteration instead of 4096. Many iterations make a password that people think of dear to guess:
 * this is for generated ones of 128 random bits and more, which are asked for whenever a fresh session is
 * opened, by the watcher of eight instances several times a second. `password` is plain ASCII, for which
 * SASLprep changes nothing. */
char *scram_secret(const char *password);

#endif
