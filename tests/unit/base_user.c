#include "../lib/tmpdir.h"

#include "moonrise/base/err.h"
#include "moonrise/base/user.h"

#include <sys/wait.h>
#include <unistd.h>

#define NOBODYS_UID 2147000000

static void
test_read(void **state)
{
    (void)state;
    struct user u;
    struct err e;
    char *dir = tmpdir_make();
    assert_int_equal(user_read(&u, &e), 0);
    assert_int_equal(setenv("NAME", u.name, 1), 0);
    assert_int_equal(setenv("USERS_HOME", u.home, 1), 0);
    tmpdir_do(dir, "test \"$NAME\" = \"$(id -un)\"");
    tmpdir_do(dir, "test \"$USERS_HOME\" = \"$(getent passwd \"$NAME\" | cut -d: -f6)\"");
    user_done(&u);
    assert_null(u.name);
    tmpdir_remove(dir);
}

static void
test_nobody(void **state)
{
    (void)state;
    if (geteuid() != 0)
        skip();
    pid_t pid = fork();
    if (pid == 0) {
        struct user u;
        struct err e;
        bool fails = seteuid(NOBODYS_UID) == 0 && user_read(&u, &e) == ERR_NOTFOUND && !u.name;
        _exit(fails ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read),
        cmocka_unit_test(test_nobody),
    };
    return cmocka_run_group_tests_name("base_user", tests, NULL, NULL);
}
