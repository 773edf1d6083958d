/* What a relay pumps between two streams, and the programs it starts for them. */
#include "../lib/moment.h"
#include "../lib/tmpdir.h"

#include "moonrise/base/crc32c.h"
#include "moonrise/base/err.h"
#include "moonrise/base/str.h"
#include "moonrise/loop/loop.h"
#include "moonrise/wire/relay.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>

#define MB      (1024 * 1024)
#define SOON_MS 30000

/* A pump on a thread of its own between two streams, whose other ends are the test's. */
struct pumping {
    int ends[2], inner[2];
    atomic_bool stop;
    pthread_t thread;
    int rc;
    struct err why;
};

static void *
pump_run(void *arg)
{
    struct pumping *p = arg;
    const struct relay_end a = {p->inner[0], p->inner[0]}, b = {p->inner[1], p->inner[1]};
    p->rc = relay_pump(&a, &b, &p->stop, &p->why);
    close(p->inner[0]);
    close(p->inner[1]);
    return NULL;
}

static void
pump_begin(struct pumping *p)
{
    int pair[2];
    *p = (struct pumping){.rc = 1};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
        p->ends[i] = pair[0];
        p->inner[i] = pair[1];
    }
    assert_int_equal(pthread_create(&p->thread, NULL, pump_run, p), 0);
}

static void
pump_end(struct pumping *p, int rc)
{
    pthread_join(p->thread, NULL);
    assert_int_equal(p->rc, rc);
}

/* One end's part: it writes a stream that no two places of are alike, and reads what comes. */
struct part {
    int fd;
    uint64_t seed;
    size_t bytes;
    size_t read_bytes; /* at once; few: slow */
    uint32_t sent_crc, got_crc;
    size_t got;
};

static void *
part_write(void *arg)
{
    struct part *p = arg;
    uint64_t *words = mem_alloc(MB), state = p->seed;
    for (size_t done = 0; done < p->bytes; done += MB) {
        for (size_t i = 0; i < MB / 8; i++) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            words[i] = state;
        }
        p->sent_crc = crc32c(p->sent_crc, words, MB);
        for (size_t at = 0; at < MB;) {
            ssize_t n = write(p->fd, (char *)words + at, MB - at);
            must(n > 0);
            at += (size_t)n;
        }
    }
    shutdown(p->fd, SHUT_WR);
    free(words);
    return NULL;
}

static void *
part_read(void *arg)
{
    struct part *p = arg;
    char *bytes = mem_alloc(p->read_bytes);
    ssize_t n;
    while ((n = read(p->fd, bytes, p->read_bytes)) > 0) {
        p->got_crc = crc32c(p->got_crc, bytes, (size_t)n);
        p->got += (size_t)n;
    }
    free(bytes);
    return NULL;
}

/* Different lengths, so that one direction ends long before the other one. */
static void
test_both_ways(void **state)
{
    struct pumping p;
    pthread_t threads[4];
    (void)state;
    pump_begin(&p);
    struct part a = {.fd = p.ends[0], .seed = 88172645463325252u, .bytes = 64 * MB};
    struct part b = {.fd = p.ends[1], .seed = 1234567890123u, .bytes = 24 * MB};
    a.read_bytes = MB;
    b.read_bytes = 700;
    pthread_create(&threads[0], NULL, part_write, &a);
    pthread_create(&threads[1], NULL, part_write, &b);
    pthread_create(&threads[2], NULL, part_read, &a);
    pthread_create(&threads[3], NULL, part_read, &b);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    pump_end(&p, 0);
    assert_int_equal(b.got, a.bytes);
    assert_int_equal(a.got, b.bytes);
    assert_int_equal(b.got_crc, a.sent_crc);
    assert_int_equal(a.got_crc, b.sent_crc);
    close(a.fd);
    close(b.fd);
}

/* Who does not read holds the writer back; what had been taken arrives nevertheless. */
static void
test_backpressure(void **state)
{
    struct pumping p;
    struct pollfd fd = {.events = POLLOUT};
    char *bytes = mem_zalloc(MB);
    size_t taken = 0;
    (void)state;
    pump_begin(&p);
    fd.fd = p.ends[0];
    fcntl(fd.fd, F_SETFL, O_NONBLOCK);
    while (poll(&fd, 1, 500) == 1) {
        ssize_t n = write(fd.fd, bytes, MB);
        assert_true(n > 0 || errno == EAGAIN);
        taken += n > 0 ? (size_t)n : 0;
        assert_true(taken < 8 * MB);
    }
    shutdown(fd.fd, SHUT_WR);
    struct part reader = {.fd = p.ends[1], .read_bytes = MB};
    part_read(&reader);
    assert_int_equal(reader.got, taken);
    close(p.ends[0]);
    close(p.ends[1]);
    pump_end(&p, 0);
    free(bytes);
}

static void
test_half_close(void **state)
{
    struct pumping p;
    char text[8] = "";
    (void)state;
    pump_begin(&p);
    assert_int_equal(write(p.ends[0], "ask", 3), 3);
    shutdown(p.ends[0], SHUT_WR);
    assert_int_equal(recv(p.ends[1], text, 3, MSG_WAITALL), 3);
    assert_int_equal(read(p.ends[1], text, sizeof text), 0);
    assert_int_equal(write(p.ends[1], "answer", 6), 6);
    assert_int_equal(recv(p.ends[0], text, 6, MSG_WAITALL), 6);
    assert_memory_equal(text, "answer", 6);
    shutdown(p.ends[1], SHUT_WR);
    assert_int_equal(read(p.ends[0], text, sizeof text), 0);
    pump_end(&p, 0);
    close(p.ends[0]);
    close(p.ends[1]);
}

/* Whichever end goes: what it had said arrives, then the other one sees the end. */
static void
test_an_end_goes(void **state)
{
    (void)state;
    for (int gone = 0; gone < 2; gone++) {
        struct pumping p;
        char text[8];
        pump_begin(&p);
        assert_int_equal(write(p.ends[1 - gone], "unread", 6), 6);
        assert_int_equal(recv(p.ends[gone], text, 1, MSG_WAITALL), 1);
        assert_int_equal(write(p.ends[gone], "last", 4), 4);
        shutdown(p.ends[gone], SHUT_RDWR);
        close(p.ends[gone]);
        assert_int_equal(recv(p.ends[1 - gone], text, 4, MSG_WAITALL), 4);
        assert_int_equal(read(p.ends[1 - gone], text, sizeof text), 0);
        /* Whoever is left ends by itself then, as agents and feeders do. */
        while (write(p.ends[1 - gone], "more", 4) > 0)
            ;
        close(p.ends[1 - gone]);
        pump_end(&p, 0);
    }
}

static void
test_stopped(void **state)
{
    struct pumping p;
    char byte;
    (void)state;
    pump_begin(&p);
    atomic_store(&p.stop, true);
    assert_int_equal(read(p.ends[0], &byte, 1), 0);
    pump_end(&p, ERR_CANCELLED);
    close(p.ends[0]);
    close(p.ends[1]);
}

static struct relay *
start_relay(const char *source, const char *target)
{
    const char *const there[] = {"sh", "-c", source, NULL}, *const here[] = {"sh", "-c", target,
                                                                             NULL};
    struct relay_spec spec = {.source.argv = there, .target.argv = here, .connect_ms = SOON_MS};
    struct relay *r;
    struct err e;
    assert_int_equal(relay_start(&r, &spec, &e), 0);
    return r;
}

static void
await(const char *dir, const char *condition)
{
    int64_t until = clock_ms() + SOON_MS;
    char *command = mem_printf("%s && echo yes || echo no", condition);
    for (;;) {
        char *said = tmpdir_shell(dir, command);
        bool yes = strcmp(said, "yes\n") == 0;
        free(said);
        if (yes)
            break;
        if (clock_ms() > until)
            fail_msg("waited for: %s", condition);
        moment_pass(20000);
    }
    free(command);
}

/* The source's program is started for who has spoken; there is always another one waiting. */
static void
test_programs(void **state)
{
    char *dir = *state;
    char *target = mem_printf("cd %s; mkdir one 2>/dev/null && { echo hello; read x; echo $x >got; "
                              "cat; } || { cat; echo >over; }",
                              dir);
    char *source =
        mem_printf("cd %s; echo >>begun; read x; echo you said $x; cat; echo >ended", dir);
    struct relay *r = start_relay(source, target);
    await(dir, "[ \"$(cat $DIR/got)\" = 'you said hello' ]");
    await(dir, "[ $(wc -l <$DIR/begun) = 1 ]");
    relay_close(r);
    await(dir, "[ -e $DIR/ended ] && [ -e $DIR/over ]");
    await(dir, "[ $(wc -l <$DIR/begun) = 1 ]");
    free(source);
    free(target);
}

/* Why a stream never came about is kept, and its target sees the end of it. */
static void
test_no_program(void **state)
{
    char *dir = *state, *target = mem_printf("cd %s; echo hello; cat 2>&1; echo >seen", dir);
    const char *const there[] = {"/no/such/program", NULL}, *const here[] = {"sh", "-c", target,
                                                                             NULL};
    struct relay_spec spec = {.source.argv = there, .target.argv = here, .connect_ms = SOON_MS};
    struct relay *r;
    struct err e;
    assert_int_equal(relay_start(&r, &spec, &e), 0);
    await(dir, "[ -e $DIR/seen ]");
    relay_why(r, &e);
    assert_int_equal(e.code, ERR_NOTFOUND);
    assert_non_null(strstr(e.message, "/no/such/program"));
    relay_close(r);
    free(target);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_ways),
        cmocka_unit_test(test_backpressure),
        cmocka_unit_test(test_half_close),
        cmocka_unit_test(test_an_end_goes),
        cmocka_unit_test(test_stopped),
        cmocka_unit_test_setup_teardown(test_programs, tmpdir_setup, tmpdir_teardown),
        cmocka_unit_test_setup_teardown(test_no_program, tmpdir_setup, tmpdir_teardown),
    };
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
