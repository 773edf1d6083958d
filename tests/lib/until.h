/*
 * Running a loop in a test until something has come true, or a deadline has passed. Included by units.
 */
#ifndef MOONRISE_TESTS_UNTIL_H
#define MOONRISE_TESTS_UNTIL_H

#include "moonrise/loop/loop.h"
#include "moonrise/loop/timer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

static inline void
until_tick(void *arg)
{
    (void)arg;
}

/* Turns the loop until *seen >= wanted; the test fails with `what` when that takes over `ms`. */
static inline void
until_count(struct loop *l, const int *seen, int wanted, int64_t ms, const char *what)
{
    struct timer *tick;
    int64_t deadline = clock_ms() + ms;
    timer_every(&tick, l, 10, until_tick, NULL);
    while (*seen < wanted && clock_ms() < deadline)
        loop_turn(l, true);
    timer_free(tick);
    if (*seen < wanted)
        fail_msg("waited %lld ms for: %s", (long long)ms, what);
}

#endif
