/*
 * What a kind of channel implements. Private to engine/wire.
 */
#ifndef MOONRISE_ENGINE_WIRE_CHANNEL_H
#define MOONRISE_ENGINE_WIRE_CHANNEL_H

#include "moonrise/wire/channel.h"

/* The first member of every channel. */
struct channel {
    void (*write)(struct channel *c, const void *bytes, size_t len);
    size_t (*unsent)(const struct channel *c);
    int (*pid)(const struct channel *c);
    void (*free)(struct channel *c);
    struct channel_events events;
};

#endif
