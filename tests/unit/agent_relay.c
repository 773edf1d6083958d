/* Feeders that come through a relay: what the end that waits for them makes of who does not come. */
#include "../../engine/agent/remote_relay.h"

#include "../lib/tmpdir.h"

#include "moonrise/base/err.h"
#include "moonrise/loop/loop.h"

#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

#define SOON_MS 10000

static int
call(const struct remote_relay *r)
{
    struct sockaddr_un place = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(place.sun_path, sizeof place.sun_path, "%s", r->socket);
    assert_int_equal(connect(fd, (struct sockaddr *)&place, sizeof place), 0);
    return fd;
}

/* Who comes cannot be let in: that is the reason, and nobody waits for another one. */
static void
test_no_descriptor_left(void **state)
{
    (void)state;
    struct remote_relay r;
    struct err e = {0};
    struct rlimit before, none;
    void *process;
    int fd;
    assert_int_equal(remote_relay_open(&r, "sdw9", NULL, &e), 0);
    int caller = call(&r);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    none = (struct rlimit){.rlim_cur = 0, .rlim_max = before.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    int64_t began = clock_ms();
    int rc = r.way.open(&r.way, NULL, &process, &fd, &e);
    int64_t took = clock_ms() - began;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_int_equal(rc, err_sys(NULL, EMFILE, "as it is"));
    assert_non_null(strstr(e.message, "open files"));
    assert_true(took < SOON_MS);
    /* As soon as there is one, that one is let in. */
    assert_int_equal(r.way.open(&r.way, NULL, &process, &fd, &e), 0);
    r.way.close(process);
    close(caller);
    remote_relay_close(&r);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_no_descriptor_left)};
    return cmocka_run_group_tests_name("agent_relay", tests, NULL, NULL);
}
