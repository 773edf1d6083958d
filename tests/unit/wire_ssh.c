/* Programs on another host: what libssh and a real sshd make of it. */
#include "../lib/sshd.h"

#include "moonrise/base/crc32c.h"

#include <pthread.h>

#define MB (1024 * 1024)

static int
setup_with(void **state, const char *options)
{
    struct sshd *d = mem_zalloc(sizeof(*d));
    *state = d;
    if (sshd_missing())
        return 0;
    sshd_setup(d, options);
    sshd_start(d);
    return 0;
}

static int
setup(void **state)
{
    return setup_with(state, "");
}

/* New keys are agreed on all the time, and a greeting is shown. */
static int
setup_rekey(void **state)
{
    return setup_with(state, "RekeyLimit 3M\nBanner /etc/passwd\n");
}

/* sshd drops most of those who come at once. */
static int
setup_crowded(void **state)
{
    return setup_with(state, "MaxStartups 2:60:4\n");
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

static struct sshd *
need_sshd(void **state)
{
    struct sshd *d = *state;
    if (d->dir)
        return d;
    print_message("# %s\n", sshd_missing());
    skip();
    return NULL;
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

static struct ssh *
open_shell(const char *script)
{
    const char *const argv[] = {"sh", "-c", script, NULL};
    return open_ok(argv);
}

static int
open_not(const char *host, int64_t ms, struct err *e)
{
    static const char *const argv[] = {"true", NULL};
    struct ssh *s;
    struct ssh_spec spec = {.host = host, .argv = argv, .connect_ms = ms};
    int rc = ssh_open(&s, &spec, e);
    assert_null(s);
    return rc;
}

static void
open_fails(const char *host, int64_t ms, int code, struct err *e)
{
    int rc = open_not(host, ms, e);
    if (rc != code)
        fail_msg("%s, not %s: %s", err_name(rc), err_name(code), e->message);
    assert_int_equal(e->code, code);
}

static void
assert_has(const char *text, const char *part)
{
    if (!strstr(text, part))
        fail_msg("\"%s\" has no \"%s\"", text, part);
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
assert_says(struct ssh *s, const char *text)
{
    char *said = read_all(s);
    assert_string_equal(said, text);
    free(said);
}

/* Reads up to the end and closes: what ssh_why said. */
static struct err
why_of(struct ssh *s)
{
    struct err e;
    free(read_all(s));
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
    need_sshd(state);
    struct err e;
    size_t bytes = getenv("MOONRISE_CAMPAIGN") ? 2000u * MB : 100u * MB;
    struct flow there = {.s = open_ok(argv), .bytes = bytes}, back = {.s = there.s};
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
    need_sshd(state);
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
    assert_says(up.s, "got it\n");
    print_message("# %lld MB/s to there\n",
                  (long long)(up.bytes / 1000 / (size_t)(clock_ms() - begun + 1)));
    ssh_close(up.s);
}

/* Nobody reads what the program says, and what it gets arrives all the same. */
static void
test_slow_reader(void **state)
{
    need_sshd(state);
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
    need_sshd(state);
    struct ssh *s = open_shell("head -c 20M /dev/zero >&2; echo out; echo err >&2; exit 5");
    struct err e;
    assert_says(s, "out\n");
    ssh_why(s, &e);
    assert_int_equal(e.code, ERR_CHILD);
    assert_has(e.message, "ssh to box (127.0.0.1 port ");
    assert_has(e.message, "the program ended with code 5: ");
    assert_has(e.message, "err");
    ssh_close(s);
}

static void
test_ends(void **state)
{
    need_sshd(state);
    struct err e = why_of(open_shell("echo first >&2; printf 'last\\033[31m\\n' >&2; exit 3"));
    assert_int_equal(e.code, ERR_CHILD);
    assert_has(e.message, "ended with code 3: last [31m");
    e = why_of(open_shell("kill -9 $$"));
    assert_int_equal(e.code, ERR_CHILD);
    assert_has(e.message, "signal KILL");
    static const char *const missing[] = {"/no/such/program", NULL};
    e = why_of(open_ok(missing));
    assert_int_equal(e.code, ERR_NOTFOUND);
    assert_has(e.message, "code 127: ");
    assert_has(e.message, "/no/such/program");
    e = why_of(open_shell("exit 0"));
    assert_int_equal(e.code, 0);
}

/* It gets what was written before, then the end. */
static void
test_close_ends_the_program(void **state)
{
    struct sshd *d = need_sshd(state);
    char *script = mem_printf("cat >%s/got; touch %s/ended", d->dir, d->dir);
    struct ssh *s = open_shell(script);
    assert_int_equal(write(ssh_fd(s), "last words", 10), 10);
    ssh_close(s);
    tmpdir_do(d->dir, "for i in $(seq 600); do [ -e $DIR/ended ] && break; sleep 0.1; done; "
                      "[ \"$(cat $DIR/got)\" = 'last words' ]");
    free(script);
}

static void
test_words(void **state)
{
    need_sshd(state);
    const char *const argv[] = {"printf",       "<%s>", "a b",  "",           "it's",
                                "$HOME `x` \"", "!\\",  "*?[~", "'\xc3\xa4'", NULL};
    struct ssh *s = open_ok(argv);
    assert_says(s, "<a b><><it's><$HOME `x` \"><!\\><*?[~><'\xc3\xa4'>");
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

static void
test_host_key_unknown(void **state)
{
    struct sshd *d = need_sshd(state);
    struct err e;
    char *print =
        tmpdir_shell(d->dir, "ssh-keygen -lf $DIR/host_key | cut -d' ' -f2 | tr -d '\\n'");
    /* What the user's configuration says about that changes nothing. */
    tmpdir_do(d->dir, "echo '  StrictHostKeyChecking no' >>$DIR/ssh/config; >$DIR/ssh/known_hosts");
    open_fails("box", SSHD_CONNECT_MS, ERR_HOSTKEY, &e);
    assert_has(e.message, print);
    assert_has(e.hint, "`ssh box`");
    tmpdir_do(d->dir, "rm $DIR/ssh/known_hosts");
    open_fails("box", SSHD_CONNECT_MS, ERR_HOSTKEY, &e);
    assert_has(e.message, print);
    assert_int_not_equal(access(mem_printf("%s/ssh/known_hosts", d->dir), F_OK), 0);
    free(print);
}

static void
test_host_key_changed(void **state)
{
    struct sshd *d = need_sshd(state);
    struct err e;
    tmpdir_do(d->dir, "echo '  StrictHostKeyChecking no' >>$DIR/ssh/config; "
                      "ssh-keygen -q -t ed25519 -N '' -f $DIR/other; "
                      "sed -i \"s|\\(.*:[0-9]*\\) .*|\\1 $(cat $DIR/other.pub)|\" "
                      "$DIR/ssh/known_hosts");
    open_fails("box", SSHD_CONNECT_MS, ERR_HOSTKEY, &e);
    assert_has(e.message, "not the one on record");
    assert_has(e.hint, "ssh-keygen -f ");
    assert_has(e.hint, "-R '[127.0.0.1]:");
    tmpdir_do(d->dir, "ssh-keygen -q -t ecdsa -N '' -f $DIR/third; "
                      "sed -i \"s|\\(.*:[0-9]*\\) .*|\\1 $(cat $DIR/third.pub)|\" "
                      "$DIR/ssh/known_hosts");
    open_fails("box", SSHD_CONNECT_MS, ERR_HOSTKEY, &e);
}

static void
test_key_refused(void **state)
{
    struct sshd *d = need_sshd(state);
    struct err e;
    tmpdir_do(d->dir, "cd $DIR/ssh; rm id_ed25519*; ssh-keygen -q -t ed25519 -N '' -f id_ed25519");
    open_fails("box", SSHD_CONNECT_MS, ERR_PERMISSION, &e);
    assert_has(e.message, "none of this user's keys is accepted");
    assert_has(e.hint, "ssh -o BatchMode=yes box true");
    /* One that is accepted, and has a passphrase: nobody is asked for it. */
    tmpdir_do(d->dir, "cd $DIR/ssh; ssh-keygen -q -p -N secret -f id_ed25519; "
                      "cp id_ed25519.pub $DIR/authorized_keys");
    open_fails("box", SSHD_CONNECT_MS, ERR_PERMISSION, &e);
    assert_has(e.message, "passphrase");
    tmpdir_do(d->dir, "chmod g+w $DIR/ssh/config");
    open_fails("box", SSHD_CONNECT_MS, ERR_PERMISSION, &e);
    assert_has(e.message, "ssh/config");
}

static void
test_nobody_there(void **state)
{
    struct sshd *d = need_sshd(state);
    struct err e;
    sshd_stop(d);
    int64_t begun = clock_ms();
    open_fails("box", SSHD_CONNECT_MS, ERR_CONNECT, &e);
    assert_has(e.message, "Connection refused");
    assert_true(clock_ms() - begun < SSHD_CONNECT_MS / 2);
    /* Not known, or nobody to be asked. */
    int rc = open_not("no-such-host.invalid", SSHD_CONNECT_MS, &e);
    assert_true(rc == ERR_NOTFOUND || rc == ERR_CONNECT);
    assert_has(e.message, "the name no-such-host.invalid cannot be resolved");
    open_fails("-oProxyCommand=x", SSHD_CONNECT_MS, ERR_ARGUMENT, &e);
    open_fails("a;b", SSHD_CONNECT_MS, ERR_ARGUMENT, &e);
}

/* A server that takes the connection and says `word`, then nothing. */
struct mute {
    int fd;
    const char *word;
    pthread_t thread;
};

static void *
mute_serve(void *arg)
{
    struct mute *m = arg;
    int fd = accept(m->fd, NULL, NULL);
    char byte;
    if (fd >= 0 && write(fd, m->word, strlen(m->word)) >= 0)
        while (read(fd, &byte, 1) > 0)
            ;
    close(fd);
    return NULL;
}

static void
mute_start(struct mute *m, struct sshd *d, const char *word)
{
    sshd_stop(d);
    m->word = word;
    m->fd = sshd_listen(&d->port);
    char *line = mem_printf("sed -i 's/Port .*/Port %d/' $DIR/ssh/config", d->port);
    tmpdir_do(d->dir, line);
    free(line);
    assert_int_equal(pthread_create(&m->thread, NULL, mute_serve, m), 0);
}

static void
mute_stop(struct mute *m)
{
    pthread_join(m->thread, NULL);
    close(m->fd);
}

static void
never_answers(struct sshd *d, const char *word, const char *phase)
{
    struct mute m;
    struct err e;
    mute_start(&m, d, word);
    open_fails("box", 700, ERR_TIMEOUT, &e);
    assert_has(e.message, phase);
    assert_has(e.message, "within 700 ms");
    mute_stop(&m);
}

static void
test_never_answers(void **state)
{
    struct sshd *d = need_sshd(state);
    never_answers(d, "", "the ssh server there has not greeted");
    never_answers(d, "welcome\r\n", "the ssh server there has not greeted");
    never_answers(d, "SSH-2.0-OpenSSH_9.2\r\n", "does not agree on keys");
}

static void *
cancel_soon(void *arg)
{
    moment_pass(200000);
    atomic_store((atomic_bool *)arg, true);
    return NULL;
}

static void
test_cancel(void **state)
{
    static const char *const argv[] = {"true", NULL};
    struct sshd *d = need_sshd(state);
    struct mute m;
    struct ssh *s;
    struct err e;
    atomic_bool cancel = false;
    pthread_t thread;
    mute_start(&m, d, "");
    struct ssh_spec spec = {"box", argv, SSHD_CONNECT_MS, &cancel};
    int64_t begun = clock_ms();
    assert_int_equal(pthread_create(&thread, NULL, cancel_soon, &cancel), 0);
    assert_int_equal(ssh_open(&s, &spec, &e), ERR_CANCELLED);
    assert_true(clock_ms() - begun < SSHD_CONNECT_MS / 2);
    pthread_join(thread, NULL);
    mute_stop(&m);
}

static void
test_sshd_dies(void **state)
{
    struct sshd *d = need_sshd(state);
    struct ssh *s = open_shell("echo begun; cat");
    char line[6];
    struct err e;
    assert_int_equal(recv(ssh_fd(s), line, sizeof(line), MSG_WAITALL), 6);
    sshd_break_sessions(d);
    assert_says(s, "");
    ssh_why(s, &e);
    assert_int_equal(e.code, ERR_CONNECT);
    assert_has(e.message, "the connection broke");
    ssh_close(s);
}

static void *
crowd_open(void *arg)
{
    static const char *const argv[] = {"echo", "here", NULL};
    struct ssh_spec spec = {.host = "box", .argv = argv, .connect_ms = SSHD_CONNECT_MS};
    ssh_open(arg, &spec, NULL);
    return NULL;
}

static void
test_sixteen_at_once(void **state)
{
    need_sshd(state);
    struct ssh *all[16];
    pthread_t threads[16];
    for (int i = 0; i < 16; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, crowd_open, &all[i]), 0);
    for (int i = 0; i < 16; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < 16; i++) {
        assert_non_null(all[i]);
        assert_says(all[i], "here\n");
        ssh_close(all[i]);
    }
}

#define WITH_SSHD(test, how) cmocka_unit_test_setup_teardown(test, how, teardown)

int
main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_SSHD(test_both_ways, setup),
        WITH_SSHD(test_both_ways, setup_rekey),
        WITH_SSHD(test_one_way, setup),
        WITH_SSHD(test_slow_reader, setup),
        WITH_SSHD(test_much_stderr, setup),
        WITH_SSHD(test_ends, setup),
        WITH_SSHD(test_close_ends_the_program, setup),
        WITH_SSHD(test_words, setup),
        cmocka_unit_test(test_shells),
        WITH_SSHD(test_host_key_unknown, setup),
        WITH_SSHD(test_host_key_changed, setup),
        WITH_SSHD(test_key_refused, setup),
        WITH_SSHD(test_nobody_there, setup),
        WITH_SSHD(test_never_answers, setup),
        WITH_SSHD(test_cancel, setup),
        WITH_SSHD(test_sshd_dies, setup),
        WITH_SSHD(test_sixteen_at_once, setup),
        WITH_SSHD(test_sixteen_at_once, setup_crowded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
