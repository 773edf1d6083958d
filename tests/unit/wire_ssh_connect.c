/* The way to another host, and what can be wrong on it: a real sshd, and servers that are none. */
#include "../lib/sshd.h"

#include <pthread.h>

/* sshd drops most of those who come at once. */
static int
setup_crowded(void **state)
{
    return sshd_setup_with(state, "MaxStartups 2:60:4\n");
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
test_host_key_unknown(void **state)
{
    struct sshd *d = sshd_need(state);
    struct err e;
    char *print =
        tmpdir_shell(d->dir, "ssh-keygen -lf $DIR/host_key | cut -d' ' -f2 | tr -d '\\n'");
    /* What the user's configuration says about that changes nothing. */
    tmpdir_do(d->dir, "echo '  StrictHostKeyChecking no' >>$DIR/ssh/config; >$DIR/ssh/known_hosts");
    open_fails("box", SSHD_CONNECT_MS, ERR_UNKNOWNKEY, &e);
    sshd_has(e.message, print);
    sshd_has(e.hint, "`ssh box`");
    tmpdir_do(d->dir, "rm $DIR/ssh/known_hosts");
    open_fails("box", SSHD_CONNECT_MS, ERR_UNKNOWNKEY, &e);
    sshd_has(e.message, print);
    tmpdir_do(d->dir, "[ ! -e $DIR/ssh/known_hosts ]");
    free(print);
}

static void
test_host_key_changed(void **state)
{
    struct sshd *d = sshd_need(state);
    struct err e;
    tmpdir_do(d->dir, "echo '  StrictHostKeyChecking no' >>$DIR/ssh/config; "
                      "ssh-keygen -q -t ed25519 -N '' -f $DIR/other; "
                      "sed -i \"s|\\(.*:[0-9]*\\) .*|\\1 $(cat $DIR/other.pub)|\" "
                      "$DIR/ssh/known_hosts");
    open_fails("box", SSHD_CONNECT_MS, ERR_HOSTKEY, &e);
    sshd_has(e.message, "not the one on record");
    sshd_has(e.hint, "ssh-keygen -f ");
    sshd_has(e.hint, "-R '[127.0.0.1]:");
    tmpdir_do(d->dir, "ssh-keygen -q -t ecdsa -N '' -f $DIR/third; "
                      "sed -i \"s|\\(.*:[0-9]*\\) .*|\\1 $(cat $DIR/third.pub)|\" "
                      "$DIR/ssh/known_hosts");
    open_fails("box", SSHD_CONNECT_MS, ERR_HOSTKEY, &e);
}

/* It is on record, and revoked as well. */
static void
test_host_key_revoked(void **state)
{
    struct sshd *d = sshd_need(state);
    struct err e;
    tmpdir_do(d->dir,
              "cd $DIR/ssh; sed 's/^/@revoked /' known_hosts >more; cat more >>known_hosts");
    open_fails("box", SSHD_CONNECT_MS, ERR_HOSTKEY, &e);
    sshd_has(e.message, "revoked");
}

static void
test_key_refused(void **state)
{
    struct sshd *d = sshd_need(state);
    struct err e;
    tmpdir_do(d->dir, "cd $DIR/ssh; rm id_ed25519*; ssh-keygen -q -t ed25519 -N '' -f id_ed25519");
    open_fails("box", SSHD_CONNECT_MS, ERR_PERMISSION, &e);
    sshd_has(e.message, "none of this user's keys is accepted");
    sshd_has(e.hint, "ssh -o BatchMode=yes box true");
    /* One that is accepted, and has a passphrase: nobody is asked for it. */
    tmpdir_do(d->dir, "cd $DIR/ssh; ssh-keygen -q -p -N secret -f id_ed25519; "
                      "cp id_ed25519.pub $DIR/authorized_keys");
    open_fails("box", SSHD_CONNECT_MS, ERR_PERMISSION, &e);
    sshd_has(e.message, "passphrase");
    tmpdir_do(d->dir, "chmod g+w $DIR/ssh/config");
    open_fails("box", SSHD_CONNECT_MS, ERR_PERMISSION, &e);
    sshd_has(e.message, "ssh/config");
}

static void
test_nobody_there(void **state)
{
    struct sshd *d = sshd_need(state);
    struct err e;
    sshd_stop(d);
    int64_t begun = clock_ms();
    open_fails("box", SSHD_CONNECT_MS, ERR_CONNECT, &e);
    sshd_has(e.message, "Connection refused");
    assert_true(clock_ms() - begun < SSHD_CONNECT_MS / 2);
    /* Not known, or nobody to be asked. */
    int rc = open_not("no-such-host.invalid", SSHD_CONNECT_MS, &e);
    assert_true(rc == ERR_NOTFOUND || rc == ERR_CONNECT);
    sshd_has(e.message, "the name no-such-host.invalid cannot be resolved");
    open_fails("-oProxyCommand=x", SSHD_CONNECT_MS, ERR_ARGUMENT, &e);
    open_fails("a;b", SSHD_CONNECT_MS, ERR_ARGUMENT, &e);
}

/* A server that takes the connection and says `word`, then nothing. */
struct mute {
    int fd;
    const char *word;
    atomic_bool *taken; /* set once it has the connection; may be NULL */
    pthread_t thread;
};

static void *
mute_serve(void *arg)
{
    struct mute *m = arg;
    int fd = accept(m->fd, NULL, NULL);
    char byte;
    if (m->taken)
        atomic_store(m->taken, true);
    if (fd >= 0 && write(fd, m->word, strlen(m->word)) >= 0)
        while (read(fd, &byte, 1) > 0)
            ;
    close(fd);
    return NULL;
}

static void
mute_start(struct mute *m, struct sshd *d)
{
    sshd_stop(d);
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
    struct mute m = {.word = word};
    struct err e;
    mute_start(&m, d);
    open_fails("box", 700, ERR_TIMEOUT, &e);
    sshd_has(e.message, phase);
    sshd_has(e.message, "within 700 ms");
    mute_stop(&m);
}

static void
test_never_answers(void **state)
{
    struct sshd *d = sshd_need(state);
    never_answers(d, "", "the ssh server there has not greeted");
    never_answers(d, "welcome\r\n", "the ssh server there has not greeted");
    never_answers(d, "SSH-2.0-OpenSSH_9.2\r\n", "does not agree on keys");
}

static void
test_cancel(void **state)
{
    static const char *const argv[] = {"true", NULL};
    struct sshd *d = sshd_need(state);
    struct ssh *s;
    struct err e;
    atomic_bool cancel = false;
    struct mute m = {.word = "", .taken = &cancel};
    mute_start(&m, d);
    struct ssh_spec spec = {"box", argv, SSHD_CONNECT_MS, &cancel};
    int64_t begun = clock_ms();
    assert_int_equal(ssh_open(&s, &spec, &e), ERR_CANCELLED);
    assert_true(clock_ms() - begun < SSHD_CONNECT_MS / 2);
    mute_stop(&m);
}

static void
test_sshd_dies(void **state)
{
    struct sshd *d = sshd_need(state);
    static const char *const argv[] = {"sh", "-c", "echo begun; cat", NULL};
    struct ssh *s = sshd_open(argv);
    char line[6];
    struct err e;
    assert_int_equal(recv(ssh_fd(s), line, sizeof(line), MSG_WAITALL), 6);
    sshd_break_sessions(d);
    sshd_says(s, "");
    ssh_why(s, &e);
    assert_int_equal(e.code, ERR_CONNECT);
    sshd_has(e.message, "the connection broke");
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
    sshd_need(state);
    struct ssh *all[16];
    pthread_t threads[16];
    for (int i = 0; i < 16; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, crowd_open, &all[i]), 0);
    for (int i = 0; i < 16; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < 16; i++) {
        assert_non_null(all[i]);
        sshd_says(all[i], "here\n");
        ssh_close(all[i]);
    }
}

static void *
later_whole(void *arg)
{
    const struct sshd *d = arg;
    moment_pass(300000);
    tmpdir_do(d->dir, "cp $DIR/authorized_keys $DIR/new && mv $DIR/new $DIR/ssh/id_ed25519.pub");
    return NULL;
}

/* libssh writes the public key that it does not find beside a private one, and another process reads half of
 * it. */
static void
test_half_a_public_key(void **state)
{
    struct sshd *d = sshd_need(state);
    static const char *const argv[] = {"echo", "here", NULL};
    pthread_t writer;
    tmpdir_write(d->dir, "ssh/id_ed25519.pub", "");
    assert_int_equal(pthread_create(&writer, NULL, later_whole, d), 0);
    struct ssh *s = sshd_open(argv);
    pthread_join(writer, NULL);
    sshd_says(s, "here\n");
    ssh_close(s);
    tmpdir_write(d->dir, "ssh/id_ed25519.pub", "what is no key stays none\n");
    struct ssh_spec spec = {.host = "box", .argv = argv, .connect_ms = SSHD_CONNECT_MS};
    struct err e;
    int64_t begun = clock_ms();
    assert_int_equal(ssh_open(&s, &spec, &e), ERR_PERMISSION);
    sshd_has(e.message, "public key");
    assert_true(clock_ms() - begun < SSHD_CONNECT_MS / 2);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        SSHD_TEST(test_host_key_unknown, sshd_default),
        SSHD_TEST(test_host_key_changed, sshd_default),
        SSHD_TEST(test_host_key_revoked, sshd_default),
        SSHD_TEST(test_key_refused, sshd_default),
        SSHD_TEST(test_nobody_there, sshd_default),
        SSHD_TEST(test_never_answers, sshd_default),
        SSHD_TEST(test_cancel, sshd_default),
        SSHD_TEST(test_sshd_dies, sshd_default),
        SSHD_TEST(test_sixteen_at_once, sshd_default),
        SSHD_TEST(test_sixteen_at_once, setup_crowded),
        SSHD_TEST(test_half_a_public_key, sshd_default),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
