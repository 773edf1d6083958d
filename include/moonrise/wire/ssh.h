/*
 * A program on another host, reached by ssh (libssh), as a stream socket.
 *
 * One ssh session per ssh_open, with a thread of its own that connects, authenticates, and from then on
 * pumps between the program's standard input and output and a socket pair. All of it blocks or waits with
 * a deadline: call it from a job, not from the loop. Any thread.
 *
 * ~/.ssh is that of the effective user's entry in the user database, as OpenSSH takes it, or the directory
 * that MOONRISE_SSH_DIR names. From it, and from /etc/ssh, come config (as far as libssh knows its words;
 * BindAddress, AddressFamily, HostKeyAlias, CertificateFile and IdentitiesOnly are not among them),
 * known_hosts and keys. Nothing asks: keys with a passphrase are used through ssh-agent only, passwords are
 * not used, and a host key that is not on record is an error, whatever StrictHostKeyChecking says.
 */
#ifndef MOONRISE_WIRE_SSH_H
#define MOONRISE_WIRE_SSH_H

#include <stdatomic.h>
#include <stdint.h>

struct err;
struct str;
struct ssh;

struct ssh_spec {
    const char *host;          /* [user@]name: an alias in ~/.ssh/config, a name or an address */
    const char *const *argv;   /* NULL-terminated, quoted for whatever login shell there is there */
    int64_t connect_ms;        /* for all until the program is started there */
    const atomic_bool *cancel; /* or NULL; looked at several times a second by ssh_open only */
};

/* Connects, authenticates and starts the program. A server that drops connections since too many come at
 * once (MaxStartups) is asked again. ERR_TIMEOUT says in which phase, ERR_CONNECT, ERR_HOSTKEY (changed or
 * revoked) and ERR_UNKNOWNKEY with the fingerprint and what to run, ERR_PERMISSION (no key is accepted, or ~/.ssh can be written by others),
 * ERR_NOTFOUND (the name is not known), ERR_CANCELLED, ERR_ARGUMENT (control characters in a word). */
int ssh_open(struct ssh **out, const struct ssh_spec *spec, struct err *e);

/* A stream socket in blocking mode: what is written is the program's standard input (shutdown(SHUT_WR) ends
 * it), what is read its standard output, up to end of file. Borrowed: ssh_close closes it. */
int ssh_fd(const struct ssh *s);

/* After end of file: why it ended. Code 0: the program ended with exit code 0. ERR_NOTFOUND: there is no
 * such program (exit code 127); ERR_CHILD: another exit code or a signal, with the last line of its
 * standard error; ERR_CONNECT: the connection broke. */
void ssh_why(struct ssh *s, struct err *e);

/* Ends the program with its input: it gets what was written, then end of file; what it still says is
 * dropped. Does not wait: the session's thread sees to it, and breaks the connection 12 s later if the
 * program is still there. NULL is fine. */
void ssh_close(struct ssh *s);

/* Appends argv as one line for a remote login shell: sh, bash, zsh, csh and fish read the same words from
 * it. ERR_ARGUMENT: control characters, which some of them cannot be given. */
int ssh_quote(struct str *out, const char *const *argv, struct err *e);

/* The argument vector that runs moonrise with `words` on another host: what `moonrise deploy` has installed
 * there for this user in this version (~/.local/lib/moonrise/VERSION/bin/moonrise), else what is in the
 * place of `executable` here, else what a login there finds by the name. The strings are borrowed; free the list with free(). */
const char **ssh_moonrise(const char *executable, const char *const *words);

#endif
