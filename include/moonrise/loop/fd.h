/*
 * Descriptors: a call when one can be read or written. Loop thread only.
 */
#ifndef MOONRISE_LOOP_FD_H
#define MOONRISE_LOOP_FD_H

struct err;
struct fdwatch;
struct loop;

enum { FD_READ = 1, FD_WRITE = 2 };

struct fdwatch_spec {
    int fd;     /* not owned; a socket, pipe or terminal, and it becomes non-blocking */
    int events; /* FD_READ|FD_WRITE; 0 is a pause */
    /* Gets the events that are ready; an error or hang-up shows as FD_READ|FD_WRITE, again and again until
     * the callback has taken it from the descriptor, waits for nothing any more or frees the watch. */
    void (*fn)(void *arg, int events);
    void *arg;
};

/* Watches a descriptor; one watch per descriptor. ERR_IO, ERR_PERMISSION for a regular file. */
int fdwatch_start(struct fdwatch **out, struct loop *l, const struct fdwatch_spec *spec,
                  struct err *e);

/* Changes what is waited for. */
void fdwatch_set(struct fdwatch *w, int events);

/* Stops and frees; the descriptor may be closed at once. Allowed inside its callback. NULL is fine. */
void fdwatch_free(struct fdwatch *w);

#endif
