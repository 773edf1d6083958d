/*
 * Letting a moment pass: between two looks at a condition, or so that something happens at a point of
 * time that nobody has chosen. Never a way to wait for something: that is until.h's.
 */
#ifndef MOONRISE_TESTS_MOMENT_H
#define MOONRISE_TESTS_MOMENT_H

#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

static inline void
moment_pass(int64_t us)
{
    struct timespec span = {us / 1000000, us % 1000000 * 1000};
    ppoll(NULL, 0, &span, NULL);
}

#endif
