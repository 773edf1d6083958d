/* What goes to programs on another host and comes back, through libssh and a real sshd. */
#include "../lib/sshd.h"

#include "moonrise/base/crc32c.h"

#include <pthread.h>

#define MB (1024 * 1024)

/* New keys are agreed on all the time, and a greeting is shown. */
static int
setup_rekey(void **state)
{
    return sshd_setup_with(state, "RekeyLimit 3M\nBanner /etc/passwd\n");
}

static struct ssh *
open_shell(const char *script)
{
    const char *const argv[] = {"sh", "-c", script, NULL};
    return sshd_open(argv);
}

/* Reads up to the end and closes: what ssh_why said. */
static struct err
why_of(struct ssh *s)
{
    struct err e;
    free(sshd_read(s));
    ssh_why(s, &e);
    ssh_close(s);
    return e;
}

/* A stream that no two places of are alike. */
static void
fill(char *bytes, size_t len, uint64_t *state)
{
    for (size_t i = 0; i + 8 <= len; i += 8) {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        memcpy(bytes + i, state, 8);
    }
}

struct flow {
    struct ssh *s;
    size_t bytes;
    uint32_t crc;
};

static void *
flow_write(void *arg)
{
    struct flow *f = arg;
    uint64_t seed = 88172645463325252u;
    char *bytes = mem_alloc(MB);
    for (size_t done = 0; done < f->bytes; done += MB) {
        fill(bytes, MB, &seed);
        f->crc = crc32c(f->crc, bytes, MB);
        for (size_t at = 0; at < MB;) {
            ssize_t n = write(ssh_fd(f->s), bytes + at, MB - at);
            must(n > 0);
            at += (size_t)n;
        }
    }
    shutdown(ssh_fd(f->s), SHUT_WR);
    free(bytes);
    return NULL;
}

static void
flow_read(struct flow *f)
{
    char *bytes = mem_alloc(MB);
    ssize_t n;
    while ((n = read(ssh_fd(f->s), bytes, MB)) > 0) {
        f->crc = crc32c(f->crc, bytes, (size_t)n);
        f->bytes += (size_t)n;
    }
    free(bytes);
}

/* Through a program that gives back what it gets, both directions busy all the time. */
static void
test_both_ways(void **state)
{
    static const char *const argv[] = {"cat", NULL};
    sshd_need(state);
    struct err e;
    size_t bytes = getenv("MOONRISE_CAMPAIGN") ? 2000u * MB : 100u * MB;
    struct flow there = {.s = sshd_open(argv), .bytes = bytes}, back = {.s = there.s};
    pthread_t writer;
    int64_t begun = clock_ms();
    assert_int_equal(pthread_create(&writer, NULL, flow_write, &there), 0);
    flow_read(&back);
    pthread_join(writer, NULL);
    print_message("# %lld MB/s each way\n",
                  (long long)(bytes / 1000 / (size_t)(clock_ms() - begun + 1)));
    assert_int_equal(back.bytes, bytes);
    assert_int_equal(back.crc, there.crc);
    ssh_why(there.s, &e);
    assert_int_equal(e.code, 0);
    ssh_close(there.s);
}

/* One way at a time, for the number. */
static void
test_one_way(void **state)
{
    sshd_need(state);
    bool campaign = getenv("MOONRISE_CAMPAIGN") != NULL;
    struct flow down = {
        .s = open_shell(campaign ? "head -c 2000M /dev/zero" : "head -c 50M /dev/zero")};
    int64_t begun = clock_ms();
    flow_read(&down);
    assert_int_equal(down.bytes, campaign ? 2000u * MB : 50u * MB);
    print_message("# %lld MB/s from there\n",
                  (long long)(down.bytes / 1000 / (size_t)(clock_ms() - begun + 1)));
    ssh_close(down.s);
    struct flow up = {.s = open_shell("cat >/dev/null; echo got it"), .bytes = down.bytes};
    begun = clock_ms();
    flow_write(&up);
    sshd_says(up.s, "got it\n");
    print_message("# %lld MB/s to there\n",
                  (long long)(up.bytes / 1000 / (size_t)(clock_ms() - begun + 1)));
    ssh_close(up.s);
}

/* Nobody reads what the program says, and what it gets arrives all the same. */
static void
test_slow_reader(void **state)
{
    sshd_need(state);
    struct flow up = {.s = open_shell("exec 3<&0; cat <&3 >/dev/null & "
                                      "head -c 30M /dev/zero; wait; echo"),
                      .bytes = 20u * MB};
    struct flow down = {.s = up.s};
    flow_write(&up);
    flow_read(&down);
    assert_int_equal(down.bytes, 30u * MB + 1);
    ssh_close(up.s);
}

/* The window is shared by both of a program's outputs: one that nobody reads must not block the other. */
static void
test_much_stderr(void **state)
{
    sshd_need(state);
    struct ssh *s = open_shell("head -c 20M /dev/zero >&2; echo out; echo err >&2; exit 5");
    struct err e;
    sshd_says(s, "out\n");
    ssh_why(s, &e);
    assert_int_equal(e.code, ERR_CHILD);
    sshd_has(e.message, "ssh to box (127.0.0.1 port ");
    sshd_has(e.message, "the program ended with code 5: ");
    sshd_has(e.message, "err");
    ssh_close(s);
}

static void
test_ends(void **state)
{
    sshd_need(state);
    struct err e = why_of(open_shell("echo first >&2; printf 'last\\033[31m\\n' >&2; exit 3"));
    assert_int_equal(e.code, ERR_CHILD);
    sshd_has(e.message, "ended with code 3: last [31m");
    /* Some login shells would make an exit code of it. */
    static const char *const dies[] = {"exec", "sh", "-c", "kill -9 $$", NULL};
    e = why_of(sshd_open(dies));
    assert_int_equal(e.code, ERR_CHILD);
    sshd_has(e.message, "signal KILL");
    static const char *const missing[] = {"/no/such/program", NULL};
    e = why_of(sshd_open(missing));
    assert_int_equal(e.code, ERR_NOTFOUND);
    sshd_has(e.message, "code 127: ");
    sshd_has(e.message, "/no/such/program");
    e = why_of(open_shell("exit 0"));
    assert_int_equal(e.code, 0);
}

/* It gets what was written before, then the end. */
static void
test_close_ends_the_program(void **state)
{
    struct sshd *d = sshd_need(state);
    tmpdir_do(d->dir, "mkfifo $DIR/ended");
    char *script = mem_printf("cat >%s/got; echo >%s/ended", d->dir, d->dir);
    struct ssh *s = open_shell(script);
    assert_int_equal(write(ssh_fd(s), "last words", 10), 10);
    ssh_close(s);
    tmpdir_do(d->dir, "cat $DIR/ended >/dev/null; [ \"$(cat $DIR/got)\" = 'last words' ]");
    free(script);
}

static void
test_words(void **state)
{
    sshd_need(state);
    const char *const argv[] = {"printf",       "<%s>", "a b",  "",           "it's",
                                "$HOME `x` \"", "!\\",  "*?[~", "'\xc3\xa4'", NULL};
    struct ssh *s = sshd_open(argv);
    sshd_says(s, "<a b><><it's><$HOME `x` \"><!\\><*?[~><'\xc3\xa4'>");
    ssh_close(s);
}

/* The same words from every login shell that this machine has. */
static void
test_shells(void **state)
{
    static const char *const shells[] = {"sh", "dash", "bash", "zsh", "csh", "tcsh", "fish", NULL};
    const char *const argv[] = {"printf", "<%s>", "a  b", "", "it's!", "\\", "\\'$x;\"", NULL};
    struct str line = STR_INIT, shell = STR_INIT;
    (void)state;
    assert_int_equal(ssh_quote(&line, argv, NULL), 0);
    for (size_t i = 0; shells[i]; i++) {
        const char *const words[] = {shells[i], "-c", line.data, NULL};
        str_clear(&shell);
        str_printf(&shell, "command -v %s >/dev/null || { printf none; exit 0; }; ", shells[i]);
        assert_int_equal(ssh_quote(&shell, words, NULL), 0);
        char *said = tmpdir_shell("/", shell.data);
        if (strcmp(said, "none") != 0)
            assert_string_equal(said, "<a  b><><it's!><\\><\\'$x;\">");
        free(said);
    }
    const char *const control[] = {"printf", "a\nb", NULL};
    assert_int_equal(ssh_quote(&line, control, NULL), ERR_ARGUMENT);
    str_free(&line);
    str_free(&shell);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        SSHD_TEST(test_both_ways, sshd_default),
        SSHD_TEST(test_both_ways, setup_rekey),
        SSHD_TEST(test_one_way, sshd_default),
        SSHD_TEST(test_slow_reader, sshd_default),
        SSHD_TEST(test_much_stderr, sshd_default),
        SSHD_TEST(test_ends, sshd_default),
        SSHD_TEST(test_close_ends_the_program, sshd_default),
        SSHD_TEST(test_words, sshd_default),
        cmocka_unit_test(test_shells),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
