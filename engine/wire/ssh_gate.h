/*
 * How many connections to one host this process may have between their begin and their authentication:
 * sshd drops connections at random once ten of them are so far (MaxStartups 10:30:100). Any thread.
 */
#ifndef MOONRISE_ENGINE_WIRE_SSH_GATE_H
#define MOONRISE_ENGINE_WIRE_SSH_GATE_H

#include <stdbool.h>
#include <stdint.h>

/* Waits up to `wait_ms` for a place; whether there was one. */
bool gate_enter(const char *host, int64_t wait_ms);

/* Gives a place back. */
void gate_leave(const char *host);

#endif
