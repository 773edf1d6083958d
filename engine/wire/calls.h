/*
 * The open calls of a session: ours, which wait for their answers, and the other end's, which wait for
 * ours. Private to engine/wire. Any callback may add calls, and free the session as long as that keeps
 * this alive until the callback has returned.
 */
#ifndef MOONRISE_ENGINE_WIRE_CALLS_H
#define MOONRISE_ENGINE_WIRE_CALLS_H

#include "moonrise/wire/session.h"

#include <stdbool.h>
#include <stddef.h>

struct calls {
    struct loop *l;
    struct open_call *first; /* ours, the newest first */
    uint32_t last_id;
    uint32_t *served; /* ids of the other end's */
    size_t nserved;
};

struct calls_deadline {
    int64_t ms; /* 0 is none; a negative one is the next turn of the loop */
    void (*fn)(void *arg, uint32_t id, int64_t ms);
    void *arg;
};

void calls_init(struct calls *c, struct loop *l);

/* Adds a call of ours and returns its id. */
uint32_t calls_add(struct calls *c, const struct session_call *call,
                   const struct calls_deadline *deadline);

/* Makes a call due on the next turn of the loop; its deadline's fn is told `ms`. */
void calls_expire(struct calls *c, uint32_t id, int64_t ms);

void calls_progress(struct calls *c, uint32_t id, const struct message *m);

/* The call is over with a message or an error; nothing when it is not known. */
void calls_finish(struct calls *c, uint32_t id, const struct message *m, const struct err *e);

/* Fails all that are open now; not those that are added meanwhile. */
void calls_fail_all(struct calls *c, const struct err *e);

/* Notes a call of the other end. ERR_PROTOCOL (the id is in use), ERR_LIMIT (too many). */
int calls_serve(struct calls *c, uint32_t id, struct err *e);
bool calls_is_served(const struct calls *c, uint32_t id);

/* Forgets it, since it is being answered; false when there is none. */
bool calls_unserve(struct calls *c, uint32_t id);

/* Drops what is left without callbacks. */
void calls_done(struct calls *c);

#endif
