#include "../lib/tmpdir.h"

#include "moonrise/base/err.h"
#include "moonrise/base/io.h"
#include "moonrise/base/path.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

struct fixture {
    char *dir;
    char *file;
    struct err e;
};

static int
setup(void **state)
{
    struct fixture *f = mem_zalloc(sizeof(*f));
    f->dir = tmpdir_make();
    f->file = path_join(f->dir, "file");
    *state = f;
    return 0;
}

static int
teardown(void **state)
{
    struct fixture *f = *state;
    tmpdir_remove(f->dir);
    free(f->file);
    free(f);
    return 0;
}

static void
expect_content(struct fixture *f, const char *text)
{
    struct str s = STR_INIT;
    assert_int_equal(io_read_file(&s, f->file, 1000, &f->e), 0);
    assert_string_equal(s.data, text);
    str_free(&s);
}

static void
test_read_file(void **state)
{
    struct fixture *f = *state;
    struct str s = STR_INIT;
    assert_int_equal(io_read_file(&s, f->file, 100, &f->e), ERR_NOTFOUND);
    assert_non_null(strstr(f->e.message, f->file));
    tmpdir_write(f->dir, "file", "hello");
    assert_int_equal(io_read_file(&s, f->file, 5, &f->e), 0);
    assert_int_equal(s.len, 5);
    assert_int_equal(io_read_file(&s, f->file, 4, &f->e), ERR_LIMIT);
    assert_int_equal(s.len, 0);
    assert_int_equal(io_read_file(&s, "/proc/self/status", 1 << 20, &f->e), 0);
    assert_non_null(strstr(s.data, "VmRSS"));
    assert_int_equal(io_read_file(&s, f->dir, 100, &f->e), ERR_IO);
    str_free(&s);
}

static void
test_write_durable(void **state)
{
    struct fixture *f = *state;
    mode_t mask = umask(077);
    assert_int_equal(io_write_durable(f->file, "one", 3, 0640, &f->e), 0);
    umask(mask);
    struct stat st;
    assert_int_equal(stat(f->file, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0640);
    assert_int_equal(io_write_durable(f->file, "", 0, 0600, &f->e), 0);
    expect_content(f, "");
    free(tmpdir_shell(f->dir, "test \"$(ls $DIR)\" = file"));
}

/* What could not be replaced is as it was, and nothing lies beside it. */
static void
test_write_durable_failing(void **state)
{
    struct fixture *f = *state;
    tmpdir_do(f->dir, "mkdir $DIR/file; echo kept >$DIR/file/inside");
    assert_true(io_write_durable(f->file, "x", 1, 0600, &f->e) < 0);
    tmpdir_do(f->dir, "test \"$(find $DIR -type f)\" = $DIR/file/inside");
    char *nowhere = path_join(f->dir, "missing/file");
    assert_int_equal(io_write_durable(nowhere, "x", 1, 0600, &f->e), ERR_NOTFOUND);
    free(nowhere);
}

/* Somebody else's link in the place of the file beside must not be followed. */
static void
test_write_durable_and_a_planted_link(void **state)
{
    struct fixture *f = *state;
    tmpdir_do(f->dir, "echo precious >$DIR/victim; ln -s victim $DIR/file.tmp");
    assert_true(io_write_durable(f->file, "x", 1, 0600, &f->e) < 0);
    tmpdir_do(f->dir, "test \"$(cat $DIR/victim)\" = precious");
}

static void
write_often(struct fixture *f, char letter, size_t len)
{
    char text[4000];
    memset(text, letter, sizeof(text));
    for (int i = 0; i < 200; i++)
        if (io_write_durable(f->file, text, len, 0600, &f->e) != 0)
            _exit(1);
    _exit(0);
}

/* Whoever writes the same file at the same time: it holds what one of them wrote, whole. */
static void
test_write_durable_by_several(void **state)
{
    struct fixture *f = *state;
    pid_t writers[4];
    for (int i = 0; i < 4; i++)
        if ((writers[i] = fork()) == 0)
            write_often(f, (char)('a' + i), 1000 * (size_t)(i + 1));
    for (int i = 0; i < 4; i++) {
        int status;
        assert_int_equal(waitpid(writers[i], &status, 0), writers[i]);
        assert_int_equal(status, 0);
    }
    struct str text = {0};
    assert_int_equal(io_read_file(&text, f->file, 4000, &f->e), 0);
    assert_int_equal(text.len, 1000 * (text.data[0] - 'a' + 1));
    assert_int_equal(strspn(text.data, (char[]){text.data[0], 0}), text.len);
    str_free(&text);
    free(tmpdir_shell(f->dir, "test \"$(ls $DIR)\" = file"));
}

static void
test_pread_pwrite(void **state)
{
    struct fixture *f = *state;
    int fd = open(f->file, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    char buf[16] = "";
    assert_int_equal(io_pwrite_full(fd, "abcdef", 6, 3, &f->e), 0);
    assert_int_equal(io_pread_full(fd, buf, 4, 3, &f->e), 4);
    assert_memory_equal(buf, "abcd", 4);
    assert_int_equal(io_pread_full(fd, buf, 16, 7, &f->e), 2);
    assert_int_equal(io_pread_full(fd, buf, 16, 9, &f->e), 0);
    close(fd);
    assert_int_equal(io_pread_full(fd, buf, 1, 0, &f->e), ERR_IO);
    int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
    assert_int_equal(io_pwrite_full(full, "x", 1, 0, &f->e), ERR_SPACE);
    close(full);
}

static void
test_free_bytes(void **state)
{
    struct err e;
    uint64_t bytes = 0;
    (void)state;
    assert_int_equal(io_free_bytes(&bytes, "/", &e), 0);
    assert_true(bytes > 0);
    assert_int_equal(io_free_bytes(&bytes, "/does/not/exist", &e), ERR_NOTFOUND);
    assert_non_null(strstr(e.message, "/does/not/exist"));
}

static void
test_make_dirs(void **state)
{
    struct fixture *f = *state;
    char *deep = path_join(f->dir, "a/b//c/");
    assert_int_equal(io_make_dirs(deep, 0750, &f->e), 0);
    assert_int_equal(io_make_dirs(deep, 0700, &f->e), 0);
    struct stat st;
    assert_int_equal(stat(deep, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0750);
    free(deep);
    tmpdir_write(f->dir, "file", "");
    assert_int_equal(io_make_dirs(f->file, 0700, &f->e), ERR_EXISTS);
    char *below = path_join(f->file, "x");
    assert_true(io_make_dirs(below, 0700, &f->e) < 0);
    free(below);
}

static void
test_rename_and_unlink(void **state)
{
    struct fixture *f = *state;
    char *other = path_join(f->dir, "other");
    tmpdir_write(f->dir, "file", "text");
    assert_int_equal(io_rename_durable(f->file, other, &f->e), 0);
    assert_int_equal(access(f->file, F_OK), -1);
    assert_int_equal(io_fsync_file(other, &f->e), 0);
    assert_int_equal(io_unlink_durable(other, &f->e), 0);
    assert_int_equal(io_unlink_durable(other, &f->e), ERR_NOTFOUND);
    assert_int_equal(io_rename_durable(f->file, other, &f->e), ERR_NOTFOUND);
    free(other);
}

static void
test_lock(void **state)
{
    struct fixture *f = *state;
    int fd, second;
    assert_int_equal(io_lock_holder(f->file), 0);
    assert_int_equal(io_lock(&fd, f->file, &f->e), 0);
    assert_int_equal(io_lock_holder(f->file), getpid());
    assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    assert_int_equal(io_lock(&second, f->file, &f->e), ERR_BUSY);
    assert_int_equal(second, -1);
    char pid[32];
    snprintf(pid, sizeof(pid), "%d", (int)getpid());
    assert_non_null(strstr(f->e.message, pid));
    io_unlock(fd);
    assert_int_equal(io_lock(&second, f->file, &f->e), 0);
    io_unlock(second);
}

/* A lock ends with its process, even when that had no time to say so. */
static void
test_lock_of_a_dead_process(void **state)
{
    struct fixture *f = *state;
    pid_t child = fork();
    if (child == 0) {
        int fd;
        _exit(io_lock(&fd, f->file, NULL) == 0 ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(io_lock_holder(f->file), child);
    int fd;
    assert_int_equal(io_lock(&fd, f->file, &f->e), 0);
    io_unlock(fd);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_read_file, setup, teardown),
        cmocka_unit_test_setup_teardown(test_write_durable, setup, teardown),
        cmocka_unit_test_setup_teardown(test_write_durable_failing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_write_durable_and_a_planted_link, setup, teardown),
        cmocka_unit_test_setup_teardown(test_write_durable_by_several, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pread_pwrite, setup, teardown),
        cmocka_unit_test(test_free_bytes),
        cmocka_unit_test_setup_teardown(test_make_dirs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_rename_and_unlink, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lock, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lock_of_a_dead_process, setup, teardown),
    };
    return cmocka_run_group_tests_name("base_io", tests, NULL, NULL);
}
