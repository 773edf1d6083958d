#include "remote_relay.h"

#include "moonrise/agent/agent.h"
#include "moonrise/base/err.h"
#include "moonrise/base/str.h"
#include "moonrise/loop/loop.h"
#include "moonrise/wire/relay.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define TICK_MS 100
/* Until one comes: whoever relays connects to this host first. */
#define COME_MS 60000
#define WAITING 64

/* An accepted stream. */
struct caller {
    int fd;
};

/* Both ends ask: a directory in /tmp is anybody's name. */
static bool
is_own_user(int fd)
{
    struct ucred who;
    socklen_t len = sizeof who;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) == 0 && who.uid == geteuid();
}

static bool
place_of(struct sockaddr_un *place, const char *path)
{
    *place = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof place->sun_path)
        return false;
    snprintf(place->sun_path, sizeof place->sun_path, "%s", path);
    return true;
}

/* Takes the next caller that is this user's: 1 and its descriptor, or 0 when none is there. */
static int
next_caller(const struct remote_relay *r, int *fd, struct err *e)
{
    while ((*fd = accept4(r->listener, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
        if (is_own_user(*fd))
            return 1;
        close(*fd);
    }
    if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)
        return 0;
    return err_sys(e, errno, "cannot let the relay in at %s", r->socket);
}

static int
way_open(const struct remote_way *way, const atomic_bool *cancel, void **process, int *fd,
         struct err *e)
{
    const struct remote_relay *r = (const struct remote_relay *)way;
    int64_t until = clock_ms() + COME_MS;
    int rc;
    cancel = cancel ? cancel : r->cancel;
    /* Several threads wait here; whoever comes is good for any of them. */
    while ((rc = next_caller(r, fd, e)) == 0) {
        struct pollfd listener = {.fd = r->listener, .events = POLLIN};
        if (cancel && atomic_load(cancel))
            return err_set(e, ERR_CANCELLED, "waiting for the relay was cancelled");
        if (clock_ms() >= until)
            return err_set(e, ERR_TIMEOUT, "the relay has opened no stream for %d s",
                           COME_MS / 1000);
        poll(&listener, 1, TICK_MS);
    }
    if (rc < 0)
        return rc;
    struct caller *c = mem_alloc(sizeof *c);
    c->fd = *fd;
    *process = c;
    return 0;
}

static void
way_why(void *process, struct err *e)
{
    (void)process;
    err_set(e, ERR_CONNECT, "the relay has ended the stream");
}

static void
way_close(void *process)
{
    struct caller *c = process;
    close(c->fd);
    free(c);
}

static int
make_directory(struct remote_relay *r, struct err *e)
{
    uint64_t name;
    if (getrandom(&name, sizeof name, 0) != sizeof name)
        return err_sys(e, errno, "no random number");
    /* Not under TMPDIR or the home: a socket's path must be short. */
    r->directory = mem_printf("/tmp/moonrise-relay-%016" PRIx64, name);
    r->socket = mem_printf("%s/socket", r->directory);
    if (mkdir(r->directory, 0700) == 0)
        return 0;
    return err_sys(e, errno, "cannot make %s", r->directory);
}

static int
start_listening(struct remote_relay *r, struct err *e)
{
    struct sockaddr_un place;
    must(place_of(&place, r->socket));
    r->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (r->listener < 0 || bind(r->listener, (struct sockaddr *)&place, sizeof place) != 0 ||
        listen(r->listener, WAITING) != 0)
        return err_sys(e, errno, "cannot listen on %s", r->socket);
    return 0;
}

int
remote_relay_open(struct remote_relay *r, const char *host, const atomic_bool *cancel,
                  struct err *e)
{
    *r = (struct remote_relay){
        .way = {.host = host, .open = way_open, .why = way_why, .close = way_close},
        .listener = -1,
        .cancel = cancel};
    int rc = make_directory(r, e);
    if (rc == 0)
        rc = start_listening(r, e);
    if (rc < 0)
        remote_relay_close(r);
    return rc;
}

void
remote_relay_close(struct remote_relay *r)
{
    if (!r->directory)
        return;
    if (r->listener >= 0)
        close(r->listener);
    unlink(r->socket);
    rmdir(r->directory);
    free(r->socket);
    free(r->directory);
    *r = (struct remote_relay){.listener = -1};
}

static int
join(const char *path, struct err *e)
{
    struct sockaddr_un place;
    const struct relay_end caller = {STDIN_FILENO, STDOUT_FILENO};
    if (!place_of(&place, path))
        return err_set(e, ERR_ARGUMENT, "the path of a socket is not as long as %s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&place, sizeof place) != 0)
        return err_sys(e, errno, "cannot connect to %s", path);
    if (!is_own_user(fd))
        return err_set(e, ERR_PERMISSION, "%s is another user's", path);
    return relay_pump(&caller, &(struct relay_end){fd, fd}, NULL, e);
}

int
relay_main(const char *path)
{
    struct err e = {0};
    signal(SIGPIPE, SIG_IGN);
    if (join(path, &e) == 0)
        return 0;
    fprintf(stderr, "moonrise relay: %s\n", e.message);
    return 1;
}
