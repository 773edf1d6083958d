#include "moonrise/wire/ssh.h"

#include "moonrise/base/str.h"
#include "moonrise/base/version.h"

#include <stdlib.h>

/* $0 is the version, $1 this program's place here. What `moonrise deploy` has installed for this user is
 * found first, since it was put there where the other one could not be replaced. Last comes what a login
 * there finds by the name: the greeting tells whether it is of this version. */
static const char moonrise_script[] = "m=$HOME/.local/lib/moonrise/$0/bin/moonrise; "
                                      "[ -x \"$m\" ] || m=$1; shift; "
                                      "[ -x \"$m\" ] || m=moonrise; exec \"$m\" \"$@\"";

const char **
ssh_moonrise(const char *executable, const char *const *words)
{
    const char *const begin[] = {"sh", "-c", moonrise_script, MOONRISE_VERSION, executable};
    const size_t first = sizeof(begin) / sizeof(begin[0]);
    size_t count = 0;
    while (words[count])
        count++;
    const char **argv = mem_alloc((first + count + 1) * sizeof(*argv));
    for (size_t i = 0; i < first; i++)
        argv[i] = begin[i];
    for (size_t i = 0; i <= count; i++)
        argv[first + i] = words[i];
    return argv;
}
