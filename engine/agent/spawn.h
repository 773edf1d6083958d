/*
 * Programs, without a shell: run to their end, or left behind as servers. From a job's thread.
 */
#ifndef AGENT_SPAWN_H
#define AGENT_SPAWN_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct str;

struct spawn {
    const char *const *argv; /* argv[0] is a path */
    const char *cwd;
    const char *input; /* for its standard input, or NULL */
    size_t input_bytes;
    int64_t deadline_ms;
    const atomic_bool *cancel;
};

/* Runs a program; *output receives what it wrote to both outputs, at most 64 KiB of it. It is killed at the
 * deadline. ERR_CHILD with its last line when it fails, ERR_TIMEOUT, ERR_CANCELLED, ERR_NOTFOUND, ERR_IO. */
int spawn_run(struct str *output, const struct spawn *s, struct err *e);

/* Starts a server in a session of its own, not as our child, with /dev/null as its input, and output
 * appended to `log_fd`. *pid is the server's. ERR_NOTFOUND, ERR_PERMISSION, ERR_IO. */
int spawn_server(int *pid, const char *const *argv, const char *cwd, int log_fd, struct err *e);

#endif
