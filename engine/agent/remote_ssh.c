#include "remote_ssh.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"
#include "moonrise/wire/ssh.h"

#include <stdlib.h>
#include <unistd.h>

/* Where this program is: there it is in the same place. */
static char *
own_program(void)
{
    char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    path[n > 0 ? n : 0] = '\0';
    return mem_strdup(n > 0 ? path : "moonrise");
}

static int
way_open(const struct remote_way *way, const atomic_bool *cancel, void **process, int *fd,
         struct err *e)
{
    const struct remote_ssh *ssh = (const struct remote_ssh *)way;
    const char *const words[] = {ssh->program, "agent", "--feed", ssh->name, NULL};
    char *self = ssh->program ? NULL : own_program();
    const char **found = ssh->program ? NULL : ssh_moonrise(self, words + 1);
    struct ssh_spec spec = {.host = way->host,
                            .argv = found ? found : words,
                            .connect_ms = ssh->connect_ms,
                            .cancel = cancel ? cancel : ssh->cancel};
    struct ssh *s;
    int rc = ssh_open(&s, &spec, e);
    free(found);
    free(self);
    if (rc < 0)
        return rc;
    *process = s;
    *fd = ssh_fd(s);
    return 0;
}

static void
way_why(void *process, struct err *e)
{
    ssh_why(process, e);
    if (e->code == ERR_NOTFOUND)
        err_hint(e, "moonrise deploy, with that host's name, installs moonrise there");
}

static void
way_close(void *process)
{
    ssh_close(process);
}

void
remote_ssh_init(struct remote_ssh *s, const char *host, const atomic_bool *cancel)
{
    *s = (struct remote_ssh){
        .way = {.host = host, .open = way_open, .why = way_why, .close = way_close},
        .name = "copy",
        .connect_ms = REMOTE_CONNECT_MS,
        .cancel = cancel};
}
