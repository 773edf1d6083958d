/* What a source on another host says of itself, when it lies: each lie is refused, and names the host. */
#include "../../engine/agent/feeder.h"
#include "../../engine/agent/source.h"
#include "../../engine/agent/target.h"

#include "../lib/tmpdir.h"

#include "moonrise/base/err.h"
#include "moonrise/wire/message.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* The two ends of a feeder's link. */
struct liar {
    struct source source;
    struct link there;
};

/* No process is behind it. */
static void
no_process(void *process)
{
    (void)process;
}

static const struct remote_way nowhere = {.host = "liar", .close = no_process};

static int
setup(void **state)
{
    struct liar *l = mem_zalloc(sizeof(*l));
    int ends[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    l->source.datadir = mem_strdup("/data/p");
    l->source.remote = (struct remote){.way = &nowhere, .peer = "host liar"};
    l->source.remote.link = (struct link){
        .in = ends[0], .out = ends[0], .peer = l->source.remote.peer, .stall_ms = LINK_STALL_MS};
    l->there =
        (struct link){.in = ends[1], .out = ends[1], .peer = "a test", .stall_ms = LINK_STALL_MS};
    link_init(&l->source.remote.link);
    link_init(&l->there);
    *state = l;
    return 0;
}

static int
teardown(void **state)
{
    struct liar *l = *state;
    int fds[] = {l->there.in, l->source.remote.link.in};
    link_done(&l->there);
    l->source.connected = true;
    source_close(&l->source);
    close(fds[0]);
    close(fds[1]);
    free(l);
    return 0;
}

/* The answer is there before the question. */
static int
told(struct liar *l, int (*ask)(struct source *s, struct err *e), const char *answer, struct err *e)
{
    struct message *m;
    assert_int_equal(message_parse(&m, answer, strlen(answer), NULL), 0);
    assert_int_equal(link_send_message(&l->there, FRAME_REPLY, 1, m, NULL), 0);
    message_free(m);
    return ask(&l->source, e);
}

static void
believes(struct liar *l, int (*ask)(struct source *s, struct err *e), const char *answer)
{
    struct err e = {0};
    if (told(l, ask, answer, &e) != 0)
        fail_msg("%s: %s", answer, e.message);
}

static void
refuses(struct liar *l, int (*ask)(struct source *s, struct err *e), const char *answer)
{
    struct err e = {0};
    if (told(l, ask, answer, &e) == 0)
        fail_msg("%s was believed", answer);
    if (!strstr(e.message, "host liar sent"))
        fail_msg("%s: %s", answer, e.message);
}

static void
test_positions(void **state)
{
    believes(*state, source_remote.begin, "{\"start_lsn\":\"0/2000028\"}");
    refuses(*state, source_remote.begin, "{}");
    refuses(*state, source_remote.begin, "{\"start_lsn\":\"somewhere\"}");
    refuses(*state, source_remote.begin, "{\"start_lsn\":17}");
}

#define SPACE(oid, path, real)                                                                     \
    "{\"spaces\":[{\"oid\":\"" oid "\",\"path\":\"" path "\",\"real\":\"" real "\"}]}"

static void
test_tablespaces(void **state)
{
    believes(*state, source_remote.spaces, "{}");
    believes(*state, source_remote.spaces, SPACE("16384", "/a/b", "/a/b"));
    refuses(*state, source_remote.spaces, SPACE("", "/a", "/a"));
    refuses(*state, source_remote.spaces, SPACE("1/../..", "/a", "/a"));
    refuses(*state, source_remote.spaces, SPACE("16384", "a", "/a"));
    refuses(*state, source_remote.spaces, SPACE("16384", "/a\\nb", "/a"));
    refuses(*state, source_remote.spaces, SPACE("16384", "/a", "a"));
    /* Its own data directory and what is "below" it become the target's. */
    refuses(*state, source_remote.spaces, SPACE("16384", "/data/p", "/data/p/../../etc"));
    refuses(*state, source_remote.spaces, SPACE("16384", "/data/p", "/data/p"));
    refuses(*state, source_remote.spaces, "{\"spaces\":[7]}");
}

/* Where the tablespace of the test below is; none is told where it is to go. */
static const char *space_at;

static int
one_space(struct source *s, struct err *e)
{
    (void)e;
    struct source_space space = {.oid = mem_strdup("16384"),
                                 .path = mem_strdup(space_at),
                                 .place.path = mem_strdup(space_at)};
    source_add_space(s, &space);
    return 0;
}

/* Only what is below the data directory is below the target's. A link to the data directory itself is not, and
 * of one that is the root all that is a name begins with a slash. */
static void
test_tablespace_beside(void **state)
{
    static const struct source_kind kind = {.spaces = one_space};
    static const char *const beside[][2] = {
        {"/data/p", "/data/p"}, {"/data/p", "/data/p2"}, {"/", "/"}, {"/", "/space"}};
    (void)state;
    for (size_t i = 0; i < sizeof beside / sizeof *beside; i++) {
        char home[16], target_dir[] = "/proc/nowhere";
        struct err e = {0};
        struct source s = {.kind = &kind, .datadir = home};
        struct order o = {.args = message_new(), .datadir = target_dir};
        struct target t = {.o = &o, .source = &s};
        snprintf(home, sizeof home, "%s", beside[i][0]);
        space_at = beside[i][1];
        if (target_spaces(&t, &e) != ERR_REFUSED)
            fail_msg("%s in %s: %s", space_at, home, e.message);
        source_forget(&s);
        message_free((struct message *)o.args);
    }
}

static void
test_files(void **state)
{
    believes(*state, source_remote.files,
             "{\"files\":[{\"name\":\"pg_wal/0000000A.history\",\"hex\":\"00ff\"}]}");
    refuses(*state, source_remote.files, "{\"files\":[{\"name\":\"moonrise.conf\"}]}");
    refuses(*state, source_remote.files,
            "{\"files\":[{\"name\":\"moonrise.conf\",\"hex\":\"0g\"}]}");
    refuses(*state, source_remote.files,
            "{\"files\":[{\"name\":\"moonrise.conf\",\"hex\":\"123\"}]}");
    refuses(*state, source_remote.files,
            "{\"files\":[{\"name\":\"postgresql.conf\",\"hex\":\"00\"}]}");
    refuses(*state, source_remote.files,
            "{\"files\":[{\"name\":\"pg_wal/../../A.history\",\"hex\":\"00\"}]}");
}

static struct err answer;

static int
fail_check(struct source *s, struct err *e)
{
    (void)s;
    *e = answer;
    return e->code;
}

static int
fail_keep(struct source *s, struct source_wal *wal, struct err *e)
{
    (void)wal;
    return fail_check(s, e);
}

/* A source that stops does so between any two questions. */
static void
test_a_lost_session_is_told_as_one(void **state)
{
    static const struct source_kind kind = {
        .check = fail_check, .keep = fail_keep, .end = fail_check};
    static const struct {
        int code;
        const char *sqlstate;
        bool lost;
    } cases[] = {{ERR_CONNECT, "", true},   {ERR_TIMEOUT, "", true},   {ERR_SQL, "57P01", true},
                 {ERR_SQL, "57P03", true},  {ERR_SQL, "55000", false}, {ERR_REFUSED, "", false},
                 {ERR_CANCELLED, "", false}};
    char datadir[] = "/data/p";
    struct source s = {.kind = &kind, .datadir = datadir};
    struct source_wal wal = {0};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err e[3];
        err_set(&answer, cases[i].code, "moving slot mr_slot_3");
        snprintf(answer.sqlstate, sizeof answer.sqlstate, "%s", cases[i].sqlstate);
        assert_int_equal(source_check(&s, &e[0]), cases[i].code);
        assert_int_equal(source_keep(&s, &wal, &e[1]), cases[i].code);
        assert_int_equal(source_end(&s, &e[2]), cases[i].code);
        for (int k = 0; k < 3; k++) {
            assert_string_equal(e[k].message, cases[i].lost
                                                  ? "the backup session with the source /data/p: "
                                                    "moving slot mr_slot_3"
                                                  : "moving slot mr_slot_3");
            assert_int_equal(e[k].hint[0] != '\0', cases[i].lost);
        }
    }
}

/* What a feeder hears of its server is told by the target alone, once. */
static void
test_a_feeder_leaves_the_telling(void **state)
{
    static const struct source_kind kind = {
        .check = fail_check, .keep = fail_keep, .end = fail_check};
    static const char *const ops[] = {"check", "keep", "end"};
    char datadir[] = "/data/p";
    struct feeder f = {.source = {.kind = &kind, .datadir = datadir}};
    struct message *args = message_new(), *out = message_new();
    (void)state;
    message_set_text(args, "from", "0/1");
    err_set(&answer, ERR_SQL, "moving slot mr_slot_3");
    snprintf(answer.sqlstate, sizeof answer.sqlstate, "57P01");
    for (int i = 0; i < 3; i++) {
        struct err e = {0};
        struct link_call call = {.op = ops[i], .args = args};
        assert_int_equal(feeder_source_call(&f, &call, out, &e), ERR_SQL);
        assert_string_equal(e.message, "moving slot mr_slot_3");
        assert_string_equal(e.hint, "");
    }
    message_free(args);
    message_free(out);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_positions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tablespaces, setup, teardown),
        cmocka_unit_test(test_tablespace_beside),
        cmocka_unit_test(test_a_lost_session_is_told_as_one),
        cmocka_unit_test(test_a_feeder_leaves_the_telling),
        cmocka_unit_test_setup_teardown(test_files, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
