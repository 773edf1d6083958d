#include "../lib/tmpdir.h"

#include "moonrise/base/err.h"
#include "moonrise/base/user.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#define NOBODYS_UID 2147000000
#define CANNOT      77

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

/* As a user of a namespace whom no user database knows: exit code 0 when the look-up fails as it should. */
static int
ask_as_nobody(uid_t uid)
{
    struct user u;
    struct err e;
    int fd = unshare(CLONE_NEWUSER) == 0 ? open("/proc/self/uid_map", O_WRONLY | O_CLOEXEC) : -1;
    bool mapped = fd >= 0 && dprintf(fd, "%d %d 1", NOBODYS_UID, (int)uid) > 0;
    if (!mapped || geteuid() != NOBODYS_UID)
        return CANNOT;
    return user_read(&u, &e) == ERR_NOTFOUND && !u.name ? 0 : 1;
}

static void
test_nobody(void **state)
{
    (void)state;
    int status;
    uid_t uid = geteuid();
    pid_t pid = fork();
    if (pid == 0)
        _exit(ask_as_nobody(uid));
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == CANNOT) {
        print_message("# user namespaces are not allowed here\n");
        skip();
    }
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
