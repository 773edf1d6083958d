/*
 * What a crash leaves on disk. Passwords pass through this program, and libpq keeps copies that nobody
 * wipes: its core files shall hold no memory at all, wherever the system puts them (core(5),
 * coredump_filter). PR_SET_DUMPABLE would do that too, but hides /proc/PID from the process's own user,
 * who looks there for an agent that hangs, and who can read the passfile anyway.
 *
 * Children inherit the filter. What an administrator has set for the servers is theirs again.
 */
#ifndef MOONRISE_BASE_CORE_H
#define MOONRISE_BASE_CORE_H

/* The environment variable that hands on what was set before. */
#define CORE_VARIABLE "MOONRISE_CORE_FILTER"

/* Keeps this process's memory out of core files. First thing in main. */
void core_hide(void);

/* In a child between fork and exec: as it was before core_hide. */
void core_restore(void);

#endif
