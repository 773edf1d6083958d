/*
 * Whether a server can be reached with TLS by the files it is to use: asked on its host before anything is
 * made, since PostgreSQL says it late (when the server starts, when a client comes) and not to the one who
 * wrote the description.
 */
#ifndef MOONRISE_CONN_CERTIFICATE_H
#define MOONRISE_CONN_CERTIFICATE_H

#include <stdint.h>

struct err;

struct certificate_files {
    const char *cert, *key; /* PEM; `cert` may hold intermediate certificates after its own */
    const char *ca;         /* PEM, or NULL: then nobody can tell whether it is the right server */
};

/* Checks that the files can be read, that the key is its owner's alone (as PostgreSQL wants it), has no
 * passphrase and belongs to the certificate, which is valid now and, with `ca`, leads to it.
 * ERR_NOTFOUND, ERR_PERMISSION, ERR_FORMAT, ERR_REFUSED; each names the file. *left_s: for how long the
 * certificate is valid from now on. */
int certificate_check(int64_t *left_s, const struct certificate_files *files, struct err *e);

/* Whether the certificate is made out to this host name or address (sslmode=verify-full): 0, or ERR_REFUSED
 * and those of ERR_FORMAT and io. */
int certificate_names(const char *cert, const char *name, struct err *e);

#endif
