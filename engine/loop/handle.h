/*
 * What the objects of the loop have in common: a place in the loop's list, so that the loop can count
 * them and close what is left. Private to engine/loop.
 */
#ifndef MOONRISE_ENGINE_LOOP_HANDLE_H
#define MOONRISE_ENGINE_LOOP_HANDLE_H

#include <stdbool.h>
#include <uv.h>

struct handle {
    struct loop *l;
    struct handle *next;
    struct handle **link;              /* what points at this one; NULL when it is in no list */
    void (*drop)(struct handle *self); /* frees the object with this handle inside */
    bool counted;
};

struct loop {
    uv_loop_t uv;
    struct handle *first;
    int handles;
};

void handle_add(struct handle *h, struct loop *l, void (*drop)(struct handle *self));

/* The owner is done with it: no longer counted, still dropped with the loop. */
void handle_hide(struct handle *h);

void handle_remove(struct handle *h);

#endif
