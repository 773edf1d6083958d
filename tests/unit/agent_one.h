/* A laboratory with one instance, a primary that runs. Included by units; call lab_user first in main. */
#ifndef AGENT_ONE_H
#define AGENT_ONE_H

#include "../lib/lab.h"

static const struct inst one = {.name = "one", .port = 6001, .dbid = 2, .content = 0};

static inline int
setup(void **state)
{
    lab_setup(state, &one);
    return 0;
}

#endif
