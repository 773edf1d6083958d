/*
 * Scripts: runs a runbook in a Lua state of its own, as the program does.
 */
#ifndef MOONRISE_LUA_SCRIPT_H
#define MOONRISE_LUA_SCRIPT_H

#include <stdbool.h>

struct script_spec {
    const char *name; /* the runbook, or NULL when the command line had none */
    const char
        *invoked; /* the name the program was called by when it stands for a runbook, or NULL */
    int argc;     /* its arguments, without any name */
    char *const *argv;
    bool verbose; /* errors with their traceback */
};

/* Calls start(name, argv, invoked) of lib/runbook.lua as the main task. Returns its integer, the exit
 * code: 1 after an error, which has been written to standard error. */
int script_main(const struct script_spec *spec);

#endif
