#include "remote_ssh.h"

#include "moonrise/base/err.h"
#include "moonrise/wire/ssh.h"

#include <stddef.h>

#define CONNECT_MS 30000

static int
way_open(const struct remote_way *way, void **process, int *fd, struct err *e)
{
    const struct remote_ssh *ssh = (const struct remote_ssh *)way;
    const char *const argv[] = {ssh->program, "agent", "--feed", ssh->name, NULL};
    struct ssh_spec spec = {
        .host = way->host, .argv = argv, .connect_ms = CONNECT_MS, .cancel = ssh->cancel};
    struct ssh *s;
    int rc = ssh_open(&s, &spec, e);
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
        .program = "moonrise",
        .name = "copy",
        .cancel = cancel};
}
