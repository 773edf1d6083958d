#include "../lib/tmpdir.h"

#include "moonrise/base/err.h"
#include "moonrise/base/path.h"
#include "moonrise/pg/conf.h"

static int
parse(struct conf *c, const char *text, struct err *e)
{
    return conf_parse(c, text, strlen(text), e);
}

static void
expect_one(const char *text, const char *name, const char *value)
{
    struct conf c = CONF_INIT;
    struct err e;
    if (parse(&c, text, &e) != 0)
        fail_msg("%s: %s", text, e.message);
    assert_int_equal(c.count, 1);
    assert_string_equal(c.items[0].name, name);
    assert_string_equal(c.items[0].value, value);
    conf_done(&c);
}

static void
test_forms(void **state)
{
    (void)state;
    expect_one("port = 5432", "port", "5432");
    expect_one("port 5432 # a comment\n", "port", "5432");
    expect_one("\tport='5432'\r\n", "port", "5432");
    expect_one("# x\n\n  shared_buffers=128MB#y\n", "shared_buffers", "128MB");
    expect_one("a.b = on", "a.b", "on");
    expect_one("a = 'it''s'", "a", "it's");
    expect_one("a = 'x\\ty\\'\\\\z'", "a", "x\ty'\\z");
    expect_one("a = '\\101\\12\\0601'", "a", "A\n01");
    expect_one("a = ''", "a", "");
    expect_one("a = -1.5e3", "a", "-1.5e3");
    expect_one("x = '# no comment'", "x", "# no comment");
    expect_one("include_if_exists 'moonrise.conf'", "include_if_exists", "moonrise.conf");
    expect_one("log_timezone = Europe/Berlin", "log_timezone", "Europe/Berlin");
}

static void
test_refuses(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "a",      "= 1",    "a = ",      "a = 'x",      "a = 'x\ny'", "a = 'x' y",   "a == 1",
        "1a = 2", "a. = 1", "a.b.c = 1", "a = 'x\\\n'", "a 'x''",     "a = 'x\\0y'", "a = b c"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct conf c = CONF_INIT;
        struct err e;
        char *text = mem_printf("ok = 1\n%s\n", bad[i]);
        if (parse(&c, text, &e) != ERR_FORMAT)
            fail_msg("accepted: %s", bad[i]);
        assert_non_null(strstr(e.message, "line 2"));
        conf_done(&c);
        free(text);
    }
}

static void
test_set_and_remove(void **state)
{
    (void)state;
    struct conf c = CONF_INIT;
    struct err e;
    assert_int_equal(parse(&c, "a = 1\nb = 2\nA = 3\n", &e), 0);
    assert_string_equal(conf_get(&c, "a"), "3");
    assert_null(conf_get(&c, "x"));
    assert_int_equal(conf_set(&c, "a", "it's \\", &e), 0);
    assert_int_equal(conf_set(&c, "c", "", &e), 0);
    struct str text = STR_INIT;
    conf_format(&text, &c);
    assert_string_equal(text.data, "a = 'it''s \\\\'\nb = '2'\nc = ''\n");
    conf_remove(&c, "B");
    conf_remove(&c, "nothing");
    assert_int_equal(c.count, 2);
    assert_int_equal(conf_set(&c, "a b", "1", &e), ERR_ARGUMENT);
    assert_int_equal(conf_set(&c, "", "1", &e), ERR_ARGUMENT);
    assert_int_equal(conf_set(&c, "a.", "1", &e), ERR_ARGUMENT);
    assert_int_equal(conf_set(&c, "a", "x\nport = 1", &e), ERR_ARGUMENT);
    str_free(&text);
    conf_done(&c);
    conf_done(&c);
}

static void
test_remove_from_nothing(void **state)
{
    (void)state;
    struct conf c = CONF_INIT;
    conf_remove(&c, "a");
    assert_null(conf_get(&c, "a"));
    conf_done(&c);
}

/* The server reads what we write as we read it, and we read what it writes. */
static void
test_real(void **state)
{
    (void)state;
    static const char *const values[] = {"plain",  "it''s '",  "back\\slash\\n",
                                         "# hash", "= 'x' \t", "\xC3\xA4\xE2\x82\xAC"};
    char *dir = tmpdir_make();
    char *path = path_join(dir, "data/postgresql.auto.conf");
    tmpdir_initdb(dir, "");
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        struct conf c = CONF_INIT, again = CONF_INIT;
        struct err e;
        assert_int_equal(conf_read(&c, path, &e), 0);
        assert_int_equal(conf_set(&c, "log_line_prefix", values[i], &e), 0);
        assert_int_equal(conf_write(&c, path, CONF_AUTO_HEADER, 0600, &e), 0);
        char *out = tmpdir_shell(dir, "$PG/postgres -D $DIR/data -C log_line_prefix");
        char *wanted = mem_printf("%s\n", values[i]);
        assert_string_equal(out, wanted);
        assert_int_equal(conf_read(&again, path, &e), 0);
        assert_string_equal(conf_get(&again, "log_line_prefix"), values[i]);
        free(wanted);
        free(out);
        conf_done(&c);
        conf_done(&again);
    }
    tmpdir_do(dir, TMPDIR_START);
    tmpdir_do(dir, TMPDIR_PSQL "-c \"alter system set archive_command = E'it''s \\\\\\\\ %p'\"");
    tmpdir_stop(dir);
    struct conf c = CONF_INIT;
    struct err e;
    assert_int_equal(conf_read(&c, path, &e), 0);
    assert_string_equal(conf_get(&c, "archive_command"), "it's \\ %p");
    conf_done(&c);
    assert_int_equal(conf_read(&c, "/nowhere/x", &e), ERR_NOTFOUND);
    free(path);
    tmpdir_remove(dir);
}

/* Of each setting the last one counts, in the order in which the server reads the files: what it says itself. */
static void
test_includes(void **state)
{
    (void)state;
    static const char *const names[] = {"work_mem", "port", "log_line_prefix", "max_connections"};
    char *dir = tmpdir_make();
    char *path = path_join(dir, "data/postgresql.conf"), *without = path_join(dir, "ours.conf");
    tmpdir_initdb(dir, "");
    tmpdir_do(dir, "mkdir $DIR/conf.d");
    tmpdir_do(dir, "echo \"include 'main.conf'\" >>$DIR/data/postgresql.conf");
    tmpdir_write(dir, "data/main.conf",
                 "include '../one.conf'\ninclude_dir '../conf.d'\nport = 7\n"
                 "include_if_exists 'none.conf'\ninclude_if_exists '../ours.conf'\n");
    tmpdir_write(dir, "one.conf", "work_mem = 1111\nport = 5\nlog_line_prefix = 'a\\nb'\n");
    tmpdir_write(dir, "conf.d/b.conf", "work_mem = 3333\n");
    tmpdir_write(dir, "conf.d/a.conf", "work_mem = 2222\ninclude 'more'\n");
    tmpdir_write(dir, "conf.d/more", "max_connections = 33\n");
    tmpdir_write(dir, "conf.d/.c.conf", "work_mem = 4444\n");
    tmpdir_write(dir, "conf.d/d.confx", "work_mem = 5555\n");
    struct conf c = CONF_INIT;
    struct err e;
    if (conf_read_included(&c, path, NULL, &e) != 0)
        fail_msg("%s", e.message);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *line = mem_printf("$PG/postgres -D $DIR/data -C %s 2>/dev/null", names[i]);
        char *out = tmpdir_shell(dir, line), *wanted = mem_printf("%s\n", conf_get(&c, names[i]));
        assert_string_equal(out, wanted);
        free(line);
        free(out);
        free(wanted);
    }
    assert_null(conf_get(&c, "include_dir"));
    conf_done(&c);

    tmpdir_write(dir, "ours.conf", "port = 9\n");
    assert_int_equal(conf_read_included(&c, path, without, &e), 0);
    assert_string_equal(conf_get(&c, "port"), "7");
    conf_done(&c);
    tmpdir_write(dir, "conf.d/b.conf", "include 'b.conf'\n");
    assert_int_equal(conf_read_included(&c, path, NULL, &e), ERR_FORMAT);
    conf_done(&c);
    tmpdir_write(dir, "conf.d/b.conf", "include 'missing'\n");
    assert_int_equal(conf_read_included(&c, path, NULL, &e), ERR_NOTFOUND);
    assert_non_null(strstr(e.message, "conf.d/missing"));
    conf_done(&c);
    free(path);
    free(without);
    tmpdir_remove(dir);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms),          cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_set_and_remove), cmocka_unit_test(test_remove_from_nothing),
        cmocka_unit_test(test_real),           cmocka_unit_test(test_includes),
    };
    return cmocka_run_group_tests_name("pg_conf", tests, NULL, NULL);
}
