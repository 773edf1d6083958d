/* Places that an instance gets, and those that it has left. A real server. */
#include "agent_one.h"

/* What an instance has left goes by its own word alone: whose it is, and that it has been replaced. */
static void
removes_what_was_replaced(void **state)
{
    struct lab *lab = *state;
    struct message *word = lab_ok(lab, &one, "inspect", "");
    char *ours = mem_printf("\"replaced\":true,\"fence\":true,\"sysid\":\"%s\"",
                            message_text(message_object(word, "control"), "sysid", ""));
    message_free(word);
    lab->epoch = 100;
    lab_refused(lab, &one, "remove_datadir", ours, ERR_REFUSED); /* not marked */
    lab_sql_is(lab, &one, "select 1", "1");
    lab_do(lab, &one, "mark", "\"reason\":\"moved\"");
    lab_refused(lab, &one, "remove_datadir", "\"replaced\":true", ERR_PROTOCOL);
    lab_refused(lab, &one, "remove_datadir", "\"replaced\":true,\"sysid\":\"7\"", ERR_REFUSED);
    char *other = mem_printf("%s,\"dbid\":3", ours);
    lab_refused(lab, &one, "remove_datadir", other, ERR_REFUSED);
    lab_sql_is(lab, &one, "select 1", "1");
    lab_do(lab, &one, "remove_datadir", ours);
    assert_false(lab_has(lab, &one, "."));
    lab_do(lab, &one, "remove_datadir", ours);
    free(other);
    free(ours);
}

/* A copy that was never finished, or a removal, has no epoch file: its note says whose it is. */
static void
removes_what_was_never_finished(void **state)
{
    struct lab *lab = *state;
    static const char ours[] = "\"replaced\":true,\"sysid\":\"7\"";
    static const struct inst copy = {.name = "copy", .port = 6003, .dbid = 4, .content = 0};
    lab->epoch = 100;
    tmpdir_do(lab->dir, "mkdir -m 700 $DIR/copy; echo 15 >$DIR/copy/PG_VERSION");
    lab_refused(lab, &copy, "remove_datadir", ours, ERR_REFUSED);
    tmpdir_do(lab->dir, "echo \"dbid = '5'\nsysid = '7'\" >$DIR/copy/moonrise.patch");
    lab_refused(lab, &copy, "remove_datadir", ours, ERR_REFUSED);
    tmpdir_do(lab->dir, "echo \"dbid = '4'\nsysid = '8'\" >$DIR/copy/moonrise.patch");
    lab_refused(lab, &copy, "remove_datadir", ours, ERR_REFUSED);
    assert_true(lab_has(lab, &copy, "PG_VERSION"));
    tmpdir_do(lab->dir, "echo \"dbid = '4'\nsysid = '7'\" >$DIR/copy/moonrise.patch");
    lab_do(lab, &copy, "remove_datadir", ours);
    assert_false(lab_has(lab, &copy, "."));
    tmpdir_do(lab->dir, "mkdir -m 700 $DIR/copy; echo precious >$DIR/copy/file");
    lab_refused(lab, &copy, "remove_datadir", ours, ERR_REFUSED);
    assert_true(lab_has(lab, &copy, "file"));
}

static struct message *
address(struct lab *lab, int port, const char *name)
{
    const struct inst here = {.name = "one", .port = port, .dbid = 2, .content = 0};
    char *more = mem_printf("\"address\":\"%s\"", name);
    struct message *m = lab_ok(lab, &here, "address", more);
    free(more);
    return m;
}

/* Where a server listens nobody else can; a name that nobody knows is told as such. */
static void
tells_addresses(void **state)
{
    struct lab *lab = *state;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int port = lab_free_port(), fd = socket(AF_INET, SOCK_STREAM, 0);
    struct message *m = address(lab, port, "127.0.0.1");
    assert_true(message_bool(m, "known", false) && message_bool(m, "free", false));
    message_free(m);
    at.sin_port = htons((uint16_t)port);
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(fd, 1), 0);
    m = address(lab, port, "127.0.0.1");
    assert_true(message_bool(m, "known", false));
    assert_false(message_bool(m, "free", true));
    message_free(m);
    close(fd);
    m = address(lab, port, "192.0.2.1");
    assert_false(message_bool(m, "free", true)); /* no address of this host */
    message_free(m);
    m = address(lab, 0, "nowhere.invalid");
    assert_false(message_bool(m, "known", true));
    message_free(m);
}

int
main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tells_addresses),
        cmocka_unit_test(removes_what_was_never_finished),
        cmocka_unit_test(removes_what_was_replaced),
    };
    (void)argc;
    lab_user(argv);
    return cmocka_run_group_tests(tests, setup, lab_teardown);
}
