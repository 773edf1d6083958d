/*
 * Errors: what a function that can fail says about it.
 *
 * A function that can fail returns 0 or a negative ERR_* and takes `struct err *e` last. The caller
 * owns the storage; a message never points elsewhere. Wrapping adds context in front of the message
 * and never changes the code. Safe from any thread: there is no shared state.
 */
#ifndef MOONRISE_BASE_ERR_H
#define MOONRISE_BASE_ERR_H

enum err_code {
    ERR_IO = -1,          /* the system refused a read, write or other call: see sys_errno */
    ERR_FORMAT = -2,      /* bytes from disk or network are not what their format says */
    ERR_ARGUMENT = -3,    /* the caller's input makes no sense */
    ERR_TIMEOUT = -4,     /* the deadline passed */
    ERR_CANCELLED = -5,   /* somebody asked to stop */
    ERR_REFUSED = -6,     /* a safety rule forbids it */
    ERR_BUSY = -7,        /* somebody else holds it */
    ERR_NOTFOUND = -8,    /* the file, instance or object does not exist */
    ERR_EXISTS = -9,      /* it exists already */
    ERR_CONNECT = -10,    /* no connection to a server could be made, or it broke */
    ERR_SQL = -11,        /* the server answered with an error: see sqlstate */
    ERR_PROTOCOL = -12,   /* the other end does not follow the protocol */
    ERR_VERSION = -13,    /* a version this program does not know */
    ERR_SPACE = -14,      /* no room left on the device */
    ERR_PERMISSION = -15, /* the operating system does not allow it */
    ERR_RUNNING = -16,    /* the server runs, or a process of it is left */
    ERR_STALE = -17,      /* the order is not newer than the last one the instance has seen */
    ERR_LIMIT = -18,      /* a budget (memory, instructions, size) is used up */
    ERR_CHILD = -19,      /* a child process failed */
    ERR_HOSTKEY = -20,    /* another host's ssh key is not the one on record, or is revoked */
    ERR_UNKNOWNKEY = -21, /* there is no ssh key of another host on record */
};

struct err {
    int code;          /* enum err_code, 0 when unset */
    int sys_errno;     /* errno behind it, or 0 */
    char sqlstate[6];  /* five characters when a server answered with an error, else empty */
    char message[768]; /* one line, context first */
    char hint[384];    /* what to do next, or empty */
};

/* Fills *e (which may be NULL) and returns `code`. */
int err_set(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Fills *e from errno value `sys`: the code is ERR_NOTFOUND, ERR_EXISTS, ERR_PERMISSION, ERR_SPACE
 * or ERR_IO, the message ends in the system's own words. Returns the code. */
int err_sys(struct err *e, int sys, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Puts "context: " before the message and returns the unchanged code. Without *e there is no code to
 * return: it is ERR_IO then, so whoever may be called with NULL returns its own. */
int err_wrap(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Sets the hint and returns the unchanged code; the same without *e. */
int err_hint(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The lower-case word of a code as scripts see it ("timeout", "refused"), or "unknown". */
const char *err_name(int code);

/* The code of a word, the other way round; 0 when there is none. */
int err_code_of(const char *name);

/* Stops the program with file and line: for conditions that only a bug can break. */
#define must(cond) ((cond) ? (void)0 : err_must_failed(#cond, __FILE__, __LINE__))
void err_must_failed(const char *cond, const char *file, int line) __attribute__((noreturn));

#endif
