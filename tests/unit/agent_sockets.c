/* Directories of sockets under /tmp, where somebody else may have been first. */
#include "../../engine/agent/settings.h"
#include "../lib/tmpdir.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"

#include <sys/stat.h>

struct fixture {
    char *dir;    /* a data directory */
    char *parent; /* /tmp/moonrise-..., of this test alone */
    char *sockets;
};

static int
setup(void **state)
{
    struct fixture *f = mem_zalloc(sizeof *f);
    f->dir = tmpdir_make();
    f->parent = mem_printf("/tmp/moonrise-test%d", (int)getpid());
    f->sockets = mem_printf("%s/abc", f->parent);
    char *line = mem_printf("unix_socket_directories = '%s'\n", f->sockets);
    tmpdir_write(f->dir, "moonrise.conf", line);
    free(line);
    *state = f;
    return 0;
}

static int
teardown(void **state)
{
    struct fixture *f = *state;
    unlink(f->sockets);
    rmdir(f->sockets);
    unlink(f->parent);
    rmdir(f->parent);
    tmpdir_remove(f->dir);
    free(f->parent);
    free(f->sockets);
    free(f);
    return 0;
}

static void
refused(struct fixture *f, const char *path)
{
    struct err e = {0};
    assert_int_equal(settings_socket_dir(f->dir, &e), ERR_REFUSED);
    assert_memory_equal(e.message, path, strlen(path));
}

static void
test_own(void **state)
{
    struct fixture *f = *state;
    struct err e = {0};
    struct stat st;
    for (int i = 0; i < 2; i++)
        assert_int_equal(settings_socket_dir(f->dir, &e), 0);
    assert_int_equal(stat(f->sockets, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0700);
}

static void
test_open_to_others(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(mkdir(f->parent, 0700), 0);
    assert_int_equal(chmod(f->parent, 0770), 0);
    refused(f, f->parent);
}

static void
test_links(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(symlink(f->dir, f->parent), 0);
    refused(f, f->parent);
    assert_int_equal(unlink(f->parent), 0);
    assert_int_equal(mkdir(f->parent, 0700), 0);
    assert_int_equal(symlink(f->dir, f->sockets), 0);
    refused(f, f->sockets);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_own, setup, teardown),
        cmocka_unit_test_setup_teardown(test_open_to_others, setup, teardown),
        cmocka_unit_test_setup_teardown(test_links, setup, teardown),
    };
    return cmocka_run_group_tests_name("agent_sockets", tests, NULL, NULL);
}
