#include "channel.h"

void
channel_write(struct channel *c, const void *bytes, size_t len)
{
    c->write(c, bytes, len);
}

size_t
channel_unsent_bytes(const struct channel *c)
{
    return c->unsent(c);
}

int
channel_pid(const struct channel *c)
{
    return c->pid(c);
}

void
channel_free(struct channel *c)
{
    if (c)
        c->free(c);
}
