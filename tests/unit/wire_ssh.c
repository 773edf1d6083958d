/* Programs on another host: a real sshd, by this user. */
#include "../lib/sshd.h"

static int
setup(void **state)
{
    struct sshd *d = mem_zalloc(sizeof(*d));
    *state = d;
    if (sshd_missing())
        return 0;
    sshd_setup(d, "");
    sshd_start(d);
    return 0;
}

static int
teardown(void **state)
{
    struct sshd *d = *state;
    if (d->dir)
        sshd_teardown(d);
    free(d);
    return 0;
}

static void
need_sshd(const struct sshd *d)
{
    if (d->dir)
        return;
    print_message("# %s\n", sshd_missing());
    skip();
}

static struct ssh *
open_ok(const char *const *argv)
{
    struct ssh *s;
    struct err e = {0};
    struct ssh_spec spec = {.host = "box", .argv = argv, .connect_ms = SSHD_CONNECT_MS};
    if (ssh_open(&s, &spec, &e) != 0)
        fail_msg("%s (%s)", e.message, e.hint);
    return s;
}

static char *
read_all(struct ssh *s)
{
    struct str out = STR_INIT;
    char chunk[4096];
    ssize_t n;
    while ((n = read(ssh_fd(s), chunk, sizeof(chunk))) > 0)
        str_append(&out, chunk, (size_t)n);
    return str_take(&out);
}

static void
test_words(void **state)
{
    need_sshd(*state);
    const char *const argv[] = {"printf", "<%s>",         "a b",     "",
                                "it's",   "$HOME `x` \"", "\\!*?[~", NULL};
    struct ssh *s = open_ok(argv);
    char *said = read_all(s);
    struct err e;
    assert_string_equal(said, "<a b><><it's><$HOME `x` \"><\\!*?[~>");
    ssh_why(s, &e);
    assert_int_equal(e.code, 0);
    ssh_close(s);
    free(said);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_words),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
