/*
 * Child processes with pipes. No shell anywhere: an argument vector is executed as it stands.
 * Loop thread only.
 */
#ifndef MOONRISE_LOOP_CHILD_H
#define MOONRISE_LOOP_CHILD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct child;
struct err;
struct loop;

struct child_spec {
    const char *const *argv; /* NULL-terminated; argv[0] is found in PATH unless it has a slash */
    const char *const *env;  /* NULL-terminated NAME=VALUE, or NULL to inherit */
    const char *cwd;         /* or NULL */
    bool pipe_stdin;         /* else /dev/null */
    bool inherit_stderr;     /* else on_stderr, or /dev/null when that is NULL */
    /* len 0 says end of file, once. Any of the callbacks may be NULL. */
    void (*on_stdout)(void *arg, const void *bytes, size_t len);
    void (*on_stderr)(void *arg, const void *bytes, size_t len);
    /* Once, after the process is gone and both outputs have ended (or 1 s later, when a grandchild
     * holds them open). exit_code is -1 when a signal ended it. */
    void (*on_exit)(void *arg, int exit_code, int signal);
    void *arg;
};

/* Starts a child in its own process group. ERR_NOTFOUND, ERR_PERMISSION, ERR_IO. */
int child_start(struct child **out, struct loop *l, const struct child_spec *spec, struct err *e);

/* Queues bytes (copied) for its standard input; a broken pipe is reported by on_exit only. */
void child_write(struct child *c, const void *bytes, size_t len);

/* Bytes queued and not yet taken by the pipe. */
size_t child_unsent_bytes(const struct child *c);

/* Ends its standard input after what is queued. */
void child_close_stdin(struct child *c);

int child_pid(const struct child *c);

/* Sends a signal to the child, or to its whole process group; nothing once it has been reaped. */
void child_kill(struct child *c, int signal, bool group);

/* Ends its standard input after what is queued, without further callbacks, and frees; kills the group if
 * it still runs `grace_ms` later. NULL is fine. */
void child_end(struct child *c, int64_t grace_ms);

/* Kills the group if it still runs and frees; on_exit is not called any more. NULL is fine. */
void child_free(struct child *c);

#endif
