#include "moonrise/base/user.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"

#include <errno.h>
#include <pwd.h>
#include <stdlib.h>
#include <unistd.h>

#define ENTRY_BYTES     1024
#define ENTRY_BYTES_MAX (1u << 20)

int
user_read(struct user *out, struct err *e)
{
    struct passwd pw, *found = NULL;
    size_t size = ENTRY_BYTES;
    char *buf = NULL;
    int sys;
    *out = (struct user){0};
    do {
        free(buf);
        buf = mem_alloc(size);
        sys = getpwuid_r(geteuid(), &pw, buf, size, &found);
        size *= 2;
    } while (sys == ERANGE && size <= ENTRY_BYTES_MAX);
    if (found) {
        out->name = mem_strdup(pw.pw_name);
        out->home = mem_strdup(pw.pw_dir);
    }
    free(buf);
    if (sys != 0)
        return err_sys(e, sys, "the name and home of user %u", (unsigned)geteuid());
    return found ? 0 : err_set(e, ERR_NOTFOUND, "user %u has no name", (unsigned)geteuid());
}

void
user_done(struct user *u)
{
    free(u->name);
    free(u->home);
    *u = (struct user){0};
}
