#include "../../engine/probe/evidence.h"

#include "../lib/pg.h"

#include "moonrise/conn/conn.h"

#include <errno.h>
#include <libintl.h>
#include <locale.h>

static struct pg server;

static int
group_setup(void **state)
{
    (void)state;
    conn_clear_environment();
    /* A server that speaks German where its translation is installed: C.UTF-8 leaves the choice to
     * LANGUAGE. */
    setenv("LANGUAGE", "de", 1);
    pg_make(&server, "lc_messages = 'C.UTF-8'\n");
    return 0;
}

static int
group_teardown(void **state)
{
    (void)state;
    pg_remove(&server);
    unsetenv("LANGUAGE");
    return 0;
}

static void
expect(enum evidence wanted, const char *sqlstate)
{
    struct err e = {0};
    struct db *d;
    int64_t deadline = clock_ms() + 20000;
    enum evidence seen = EVIDENCE_NONE;
    do {
        if (pg_connect(&d, &server, &e) == 0)
            db_close(d);
        else
            seen = evidence_of(&e);
    } while (seen != wanted && clock_ms() < deadline);
    print_message("%s: %s\n", evidence_name(seen), e.message);
    assert_int_equal(seen, wanted);
    assert_string_equal(e.sqlstate, sqlstate);
    assert_null(strchr(e.message, '\n'));
    assert_null(strstr(e.message, ".c:"));
    assert_null(strstr(e.message, sqlstate));
}

/* Archive recovery that waits for its first WAL file has not begun: "starting up". */
static void
test_starting_up(void **state)
{
    (void)state;
    pg_write(&server, "standby.signal", "w", "");
    pg_launch(&server, "--restore_command=tail -f /dev/null");
    expect(EVIDENCE_STARTING, "57P03");
    pg_signal(&server, SIGQUIT);
}

/* Recovery under way, hot standby off. */
static void
test_not_yet(void **state)
{
    (void)state;
    pg_launch(&server, "--hot_standby=off");
    expect(EVIDENCE_NOT_YET, "57P03");
    pg_signal(&server, SIGQUIT);
    char *path = mem_printf("%s/standby.signal", server.dir);
    assert_int_equal(unlink(path), 0);
    free(path);
}

/* One backend is killed while another is stopped: the postmaster waits for that one before it repairs. */
static void
test_in_recovery_mode(void **state)
{
    struct db *stopped, *killed;
    struct err e;
    (void)state;
    pg_start(&server);
    assert_int_equal(pg_connect(&stopped, &server, &e), 0);
    assert_int_equal(pg_connect(&killed, &server, &e), 0);
    kill(db_backend_pid(stopped), SIGSTOP);
    kill(db_backend_pid(killed), SIGKILL);
    expect(EVIDENCE_RECOVERING, "57P03");
    kill(db_backend_pid(stopped), SIGCONT);
    db_close(stopped);
    db_close(killed);
    pg_wait_ready(&server);
}

/* A smart shutdown waits for the session that is there and takes no other. */
static void
test_shutting_down(void **state)
{
    struct db *held;
    struct err e;
    (void)state;
    pg_wait_ready(&server);
    assert_int_equal(pg_connect(&held, &server, &e), 0);
    kill(server.pid, SIGTERM);
    expect(EVIDENCE_SHUTTING_DOWN, "57P03");
    db_close(held);
    assert_int_equal(waitpid(server.pid, NULL, 0), server.pid);
    server.pid = 0;
}

static const struct {
    const char *text;
    enum evidence ev;
} sentences[] = {
    {"the database system is starting up", EVIDENCE_STARTING},
    {"the database system is in recovery mode", EVIDENCE_RECOVERING},
    {"the database system is shutting down", EVIDENCE_SHUTTING_DOWN},
    {"the database system is not yet accepting connections", EVIDENCE_NOT_YET},
    {"the database system is not accepting connections", EVIDENCE_NOT_YET},
};

/* gettext looks again only when this number has changed. */
extern int _nl_msg_cat_cntr;

/* Every translation of the server that is installed here. */
static void
test_every_language(void **state)
{
    glob_t found;
    int languages = 0;
    (void)state;
    if (glob("/usr/share/locale/*/LC_MESSAGES/postgres-1*.mo", 0, NULL, &found) != 0)
        skip();
    assert_non_null(setlocale(LC_MESSAGES, "C.UTF-8"));
    for (size_t i = 0; i < found.gl_pathc; i++) {
        char language[32], domain[32];
        assert_int_equal(sscanf(found.gl_pathv[i], "/usr/share/locale/%31[^/]/LC_MESSAGES/%31[^.]",
                                language, domain),
                         2);
        setenv("LANGUAGE", language, 1);
        bindtextdomain(domain, "/usr/share/locale");
        bind_textdomain_codeset(domain, "UTF-8");
        _nl_msg_cat_cntr++;
        for (size_t k = 0; k < sizeof(sentences) / sizeof(sentences[0]); k++) {
            const char *text = dgettext(domain, sentences[k].text);
            languages += text != sentences[k].text;
            if (evidence_of_words(text) != sentences[k].ev)
                fail_msg("%s %s: \"%s\" is taken for %s", domain, language, text,
                         evidence_name(evidence_of_words(text)));
        }
    }
    globfree(&found);
    setenv("LANGUAGE", "de", 1);
    setlocale(LC_MESSAGES, "C");
    print_message("%d sentences\n", languages);
    assert_true(languages > 0);
}

static struct err
failure(int code, const char *sqlstate, int sys)
{
    struct err e;
    err_set(&e, code, "x");
    strcpy(e.sqlstate, sqlstate);
    e.sys_errno = sys;
    return e;
}

static void
test_errors(void **state)
{
    const struct {
        int code;
        const char *sqlstate;
        int sys;
        enum evidence ev;
    } cases[] = {
        {ERR_TIMEOUT, "", 0, EVIDENCE_TIMEOUT},
        {ERR_SQL, "28000", 0, EVIDENCE_AUTHENTICATION},
        {ERR_SQL, "57P01", 0, EVIDENCE_SHUTTING_DOWN},
        {ERR_SQL, "57P02", 0, EVIDENCE_RESET},
        {ERR_SQL, "53200", 0, EVIDENCE_SQLSTATE},
        {ERR_SQL, "58030", 0, EVIDENCE_SQLSTATE},
        {ERR_CONNECT, "", ECONNREFUSED, EVIDENCE_REFUSED},
        {ERR_CONNECT, "", ENOENT, EVIDENCE_REFUSED},
        {ERR_CONNECT, "", EHOSTUNREACH, EVIDENCE_UNREACHABLE},
        {ERR_CONNECT, "", ETIMEDOUT, EVIDENCE_TIMEOUT},
        {ERR_CONNECT, "", EAGAIN, EVIDENCE_TIMEOUT},
        {ERR_CONNECT, "", ECONNRESET, EVIDENCE_RESET},
        {ERR_CONNECT, "", EDESTADDRREQ, EVIDENCE_UNRESOLVED},
        {ERR_CONNECT, "", EKEYREJECTED, EVIDENCE_AUTHENTICATION},
        {ERR_CONNECT, "", 0, EVIDENCE_RESET},
        {ERR_CONNECT, "", EMFILE, EVIDENCE_SHORTAGE},
        {ERR_CONNECT, "", ENFILE, EVIDENCE_SHORTAGE},
        {ERR_CONNECT, "", ENOMEM, EVIDENCE_SHORTAGE},
        {ERR_CONNECT, "", ENOBUFS, EVIDENCE_SHORTAGE},
        {ERR_CONNECT, "", EADDRNOTAVAIL, EVIDENCE_SHORTAGE},
    };
    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct err e = failure(cases[i].code, cases[i].sqlstate, cases[i].sys);
        assert_int_equal(evidence_of(&e), cases[i].ev);
    }
    for (int ev = EVIDENCE_NONE; ev <= EVIDENCE_SHORTAGE; ev++)
        assert_string_not_equal(evidence_name((enum evidence)ev), "unknown");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_errors),           cmocka_unit_test(test_every_language),
        cmocka_unit_test(test_starting_up),      cmocka_unit_test(test_not_yet),
        cmocka_unit_test(test_in_recovery_mode), cmocka_unit_test(test_shutting_down),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
