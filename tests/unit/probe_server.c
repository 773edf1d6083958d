#include "probe_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>

/* What the probing role was given hides the server's level, above it as well as below. */
static void
test_own_level(void **state)
{
    struct fixture *f = *state;
    int64_t deadline = clock_ms() + 20000;
    retime(f, 50, 2000, 200);
    free(pg_sql(&primary, "alter role moonrise set synchronous_commit = on"));
    free(pg_sql(&primary, "alter system set synchronous_commit = off"));
    free(pg_sql(&primary, "select pg_reload_conf()"));
    set(f, &primary);
    const struct observation *o = next(f);
    while (o->sync_commit[0] == '\0' && clock_ms() < deadline)
        o = next(f);
    assert_string_equal(o->sync_commit, "off");
    free(pg_sql(&primary, "alter role moonrise set synchronous_commit = local"));
    free(pg_sql(&primary, "alter system reset synchronous_commit"));
    free(pg_sql(&primary, "select pg_reload_conf()"));
    free(pg_sql(&primary, "select count(pg_terminate_backend(pid)) from pg_stat_activity "
                          "where usename = 'moonrise' and backend_type = 'client backend'"));
    while (strcmp(o->sync_commit, "on") != 0 && clock_ms() < deadline)
        o = next(f);
    assert_string_equal(o->sync_commit, "on");
    /* Not to be told is unlike not told yet: the role may not start a walsender any more. */
    free(pg_sql(&primary, "alter role moonrise noreplication"));
    while (strcmp(o->sync_commit, "unknown") != 0 && clock_ms() < deadline)
        o = next(f);
    assert_string_equal(o->sync_commit, "unknown");
    free(pg_sql(&primary, "alter role moonrise replication"));
    free(pg_sql(&primary, "alter role moonrise reset synchronous_commit"));
}

static bool
find(void *arg, uint64_t ticket, const struct conn_params *params)
{
    struct fixture *f = arg;
    assert_string_equal(params->values[0], "host.invalid");
    f->ticket = ticket;
    f->asked++;
    return true;
}

static void
found(struct fixture *f, uint64_t ticket, const char *address)
{
    const char *keywords[] = {"host", "hostaddr", "port", "user", "dbname", "password", NULL};
    const char *values[] = {"host.invalid", address, primary.port, "moonrise",
                            "postgres",     "moon",  NULL};
    struct conn_params params = {keywords, values};
    prober_found(f->p, ticket, address ? &params : NULL);
}

/* A name is looked up by others. A resolver that is silent holds nothing up, and one that has lost the name
 * takes no address away. */
static void
test_names(void **state)
{
    struct fixture *f = *state;
    struct prober_spec with = {50, 500, 60000, observed, find, f};
    const char *keywords[] = {"host", "port", "user", "dbname", "password", NULL};
    const char *values[] = {"host.invalid", primary.port, "moonrise", "postgres", "moon", NULL};
    struct target_spec spec = {.dbid = 1, .params = {keywords, values}, .named = true};
    prober_free(f->p);
    prober_new(&f->p, f->l, &with);
    prober_set(f->p, &spec);
    assert_int_equal(f->asked, 1);
    const struct observation *o = next(f);
    assert_int_equal(o->evidence, EVIDENCE_UNRESOLVED);
    assert_in_range(o->took_ms, 500, 5000);
    assert_int_equal(f->asked, 1);
    found(f, f->ticket, NULL);
    await(f, EVIDENCE_UNRESOLVED);
    until_count(f->l, &f->asked, 2, 20000, "another look-up");
    found(f, f->ticket, "127.0.0.1");
    await(f, EVIDENCE_NONE);
    assert_int_equal(f->asked, 2);
    pg_signal(&primary, SIGKILL);
    await(f, EVIDENCE_REFUSED);
    until_count(f->l, &f->asked, 3, 20000, "a look-up after the failure");
    found(f, f->ticket, NULL);
    pg_start(&primary);
    await(f, EVIDENCE_NONE);
    uint64_t late = f->ticket;
    prober_drop(f->p, 1);
    found(f, late, "127.0.0.1");
}

/* Without descriptors nothing can be asked: that is no news about the server. */
static void
test_shortage(void **state)
{
    struct fixture *f = *state;
    struct rlimit before, few;
    int held[64], n = 0;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    few = before;
    few.rlim_cur = 64;
    retime(f, 50, 2000, 100);
    set(f, &primary);
    await(f, EVIDENCE_NONE);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
    while (n < 64 && (held[n] = open("/dev/null", O_RDONLY | O_CLOEXEC)) >= 0)
        n++;
    assert_int_equal(errno, EMFILE);
    const struct observation *o = await(f, EVIDENCE_SHORTAGE);
    for (int i = 0; i < 10; i++) {
        o = next(f);
        assert_true(o->evidence == EVIDENCE_NONE || o->evidence == EVIDENCE_SHORTAGE);
    }
    while (n > 0)
        close(held[--n]);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    do
        o = await(f, EVIDENCE_NONE);
    while (!o->fresh);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_own_level, setup, teardown),
        cmocka_unit_test_setup_teardown(test_names, setup, teardown),
        cmocka_unit_test_setup_teardown(test_shortage, setup, teardown),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
