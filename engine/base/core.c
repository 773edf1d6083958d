#include "moonrise/base/core.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

static const char filter_path[] = "/proc/self/coredump_filter";

static bool
filter_write(const char *text)
{
    int fd = open(filter_path, O_WRONLY | O_CLOEXEC);
    bool done = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    if (fd >= 0)
        close(fd);
    return done;
}

/* Hands on what is set now, as "0x33", unless an ancestor has hidden it and said what it was. */
static void
filter_keep(void)
{
    char text[20] = "0x";
    int fd = open(filter_path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, text + 2, sizeof text - 3) : 0;
    if (fd >= 0)
        close(fd);
    text[n > 0 ? 2 + n : 0] = '\0';
    text[strcspn(text, "\n")] = '\0';
    if (text[0])
        setenv(CORE_VARIABLE, text, strtoul(text, NULL, 16) != 0);
}

void
core_hide(void)
{
    filter_keep();
    if (!filter_write("0"))
        prctl(PR_SET_DUMPABLE, 0); /* a system without it: nothing is dumped at all */
}

void
core_restore(void)
{
    const char *text = getenv(CORE_VARIABLE);
    if (text)
        filter_write(text);
}
