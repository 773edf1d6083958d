/*
 * Which packing a sender takes: none where the link keeps up, a strong one where it does not, none again where
 * nothing is gained. And what a link does with an end that takes nothing.
 */
#include "moonrise/wire/pace.h"

#include "../lib/tmpdir.h"

#include "moonrise/base/err.h"
#include "moonrise/loop/loop.h"
#include "moonrise/wire/link.h"
#include "moonrise/wire/message.h"

#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>

#define PAYLOAD (256u << 10)
#define NAG_MS  10000

/* Sends so many payloads over a link that takes so many nanoseconds a byte; how many were packed. */
static int
send_over(struct pace *p, double way_ns, int count, bool random)
{
    uint8_t *bytes = mem_alloc(FRAME_HEAD_BYTES + PAYLOAD);
    uint32_t seed = 7;
    int packed = 0;
    for (size_t i = 0; i < PAYLOAD; i++) {
        seed = seed * 1664525u + 1013904223u;
        bytes[FRAME_HEAD_BYTES + i] = random ? (uint8_t)(seed >> 24) : (uint8_t)(seed >> 30);
    }
    for (int i = 0; i < count; i++) {
        struct pace_frame f;
        pace_begin(&f);
        f.frame =
            (struct frame){.type = FRAME_LIST, .payload = bytes + FRAME_HEAD_BYTES, .len = PAYLOAD};
        pace_pack(p, &f);
        packed += f.frame.packing != FRAME_PLAIN;
        int64_t took = (int64_t)(way_ns * (double)f.len);
        f.began_ns -= took;
        pace_sent(p, &f, took);
    }
    free(bytes);
    return packed;
}

static void
test_a_fast_link(void **state)
{
    (void)state;
    struct pace p;
    pace_init(&p, PAYLOAD);
    assert_int_equal(send_over(&p, 0, 200, false), 0);
    pace_done(&p);
}

static void
test_a_slow_link(void **state)
{
    (void)state;
    struct pace p;
    pace_init(&p, PAYLOAD);
    assert_true(send_over(&p, 2000, 200, false) > 180);
    assert_int_equal(p.chosen, FRAME_ZSTD); /* two bits of eight are left of it, lz4 makes more */
    /* It becomes a fast one. */
    send_over(&p, 0, 200, false);
    assert_int_equal(p.chosen, FRAME_PLAIN);
    assert_true(send_over(&p, 0, 100, false) < 10);
    /* What cannot be packed is sent plain, and seldom tried. */
    send_over(&p, 2000, 100, true);
    assert_int_equal(send_over(&p, 2000, 100, true), 0);
    assert_int_equal(p.chosen, FRAME_PLAIN);
    /* What can be is, again. */
    assert_true(send_over(&p, 2000, 200, false) > 50);
    pace_done(&p);
}

/* Both ends send at once, more than a socket takes, and neither waits for the other in vain. */
static void
test_both_ends_send(void **state)
{
    (void)state;
    int ends[2];
    struct err e = {0};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    struct link a = {.in = ends[0], .out = ends[0], .peer = "b", .stall_ms = 20000};
    struct link b = {.in = ends[1], .out = ends[1], .peer = "a", .stall_ms = 300};
    uint8_t *bytes = mem_zalloc(1 << 20);
    struct frame big = {.type = FRAME_LIST, .payload = bytes, .len = 1 << 20}, got;
    link_init(&a);
    link_init(&b);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(link_send(&a, &big, &e), 0);
        assert_int_equal(link_send(&b, &big, &e), 0);
    }
    for (int seen_a = 0, seen_b = 0; seen_a < 3 || seen_b < 3;) {
        got.len = 0;
        seen_a += link_next(&a, &got, 10, &e);
        assert_true(got.len == 0 || got.len == 1 << 20);
        seen_b += link_next(&b, &got, 10, &e);
        assert_int_equal(e.code, 0);
    }
    /* One that takes nothing, and one that says nothing. */
    while ((a.stall_ms = 300) && link_write(&a, bytes, 1 << 20, &e) == 0)
        continue;
    assert_int_equal(e.code, ERR_TIMEOUT);
    assert_non_null(strstr(e.message, "b has taken nothing"));
    assert_int_equal(link_next(&a, &got, -1, &e), ERR_TIMEOUT);
    assert_int_equal(link_next(&a, &got, 20, &e), 0);
    link_done(&a);
    link_done(&b);
    close(ends[0]);
    close(ends[1]);
    free(bytes);
}

/* After a frame that went out in part comes nothing: it would be taken for the rest of it. */
static void
test_a_torn_frame_is_the_last(void **state)
{
    (void)state;
    int ends[2];
    struct err e = {0};
    struct str bytes = STR_INIT;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    struct link a = {.in = ends[0], .out = ends[0], .peer = "b", .stall_ms = 300};
    struct link b = {.in = ends[1], .out = ends[1], .peer = "a", .stall_ms = 300};
    uint8_t *payload = mem_zalloc(FRAME_PAYLOAD_BYTES);
    frame_append(&bytes, &(struct frame){
                             .type = FRAME_LIST, .payload = payload, .len = FRAME_PAYLOAD_BYTES});
    struct frame failure = {.type = FRAME_FAIL, .payload = "{}", .len = 2}, got;
    link_init(&a);
    link_init(&b);
    assert_int_equal(link_write(&a, bytes.data, bytes.len, &e), ERR_TIMEOUT);
    uint64_t sent = a.bytes_out;
    assert_int_equal(link_next(&b, &got, 50, &e), 0);
    assert_int_equal(link_send(&a, &failure, &e), ERR_CONNECT);
    assert_int_equal(link_next(&b, &got, 50, &e), 0);
    assert_true(sent > 0 && a.bytes_out == sent && b.bytes_in == sent);
    link_done(&a);
    link_done(&b);
    close(ends[0]);
    close(ends[1]);
    str_free(&bytes);
    free(payload);
}

/* An end that keeps the other one busy: the same bytes again and again, so many at a time. It reads nothing. */
struct nagger {
    int fd;
    struct str bytes;
    size_t piece;
    int64_t tick_ms;   /* from one to the next */
    int64_t cancel_ms; /* when the other end is stopped; 0: never */
    int64_t until;
    pthread_t thread;
};

static void *
nag(void *arg)
{
    struct nagger *n = arg;
    size_t at = 0;
    while (clock_ms() < n->until) {
        size_t left = n->bytes.len - at, len = left < n->piece ? left : n->piece;
        ssize_t sent = send(n->fd, n->bytes.data + at, len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno != EAGAIN)
            break;
        at = (at + (sent > 0 ? (size_t)sent : 0)) % n->bytes.len;
        poll(NULL, 0, (int)n->tick_ms);
    }
    return NULL;
}

static bool
is_stopped(void *arg)
{
    const struct nagger *n = arg;
    return n->cancel_ms && clock_ms() > n->cancel_ms;
}

/* What becomes of a call to it, which has to end long before it does. */
static int
call_nagger(struct nagger *n, struct link *l, int64_t limit_ms, struct err *e)
{
    int ends[2];
    struct message *answer;
    struct link_call call = {.op = "feed", .limit_ms = limit_ms};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    n->fd = ends[1];
    n->until = clock_ms() + NAG_MS;
    *l = (struct link){.in = ends[0],
                       .out = ends[0],
                       .peer = "b",
                       .stall_ms = 500,
                       .stopped = is_stopped,
                       .arg = n};
    link_init(l);
    assert_int_equal(pthread_create(&n->thread, NULL, nag, n), 0);
    int rc = link_call(&answer, l, &call, e);
    message_free(answer);
    assert_true(clock_ms() < n->until - NAG_MS / 2);
    close(ends[0]);
    pthread_join(n->thread, NULL);
    close(ends[1]);
    str_free(&n->bytes);
    return rc;
}

static void
test_pings_without_an_end(void **state)
{
    (void)state;
    struct err e = {0};
    struct link l;
    struct nagger polite = {.tick_ms = 20, .piece = FRAME_HEAD_BYTES};
    struct nagger flood = {.cancel_ms = clock_ms() + 2500, .piece = 40000};
    frame_append(&polite.bytes, &(struct frame){.type = FRAME_PING});
    assert_int_equal(call_nagger(&polite, &l, 1000, &e), ERR_TIMEOUT);
    assert_string_equal(e.message, "b has not answered 'feed' for 1 s");
    link_done(&l);
    while (flood.bytes.len < flood.piece)
        frame_append(&flood.bytes, &(struct frame){.type = FRAME_PING});
    assert_int_equal(call_nagger(&flood, &l, 0, &e), ERR_CANCELLED);
    assert_true(l.queue.len - l.sent < 1000);
    link_done(&l);
}

/* A frame of which next to nothing comes is not waited for; one over a slow link is. */
static void
test_slow_frames(void **state)
{
    (void)state;
    struct err e = {0};
    struct link l;
    char text[6000];
    struct nagger drip = {.tick_ms = 20, .piece = 2}, slow = {.tick_ms = 50, .piece = 300};
    struct frame frame = {.type = FRAME_REPLY, .payload = text, .len = sizeof(text)};
    memset(text, ' ', sizeof(text));
    memcpy(text, "{}", 2);
    frame_append(&drip.bytes, &frame);
    frame_append(&slow.bytes, &frame);
    assert_int_equal(call_nagger(&drip, &l, 0, &e), ERR_TIMEOUT);
    assert_non_null(strstr(e.message, "b has said next to nothing"));
    link_done(&l);
    assert_int_equal(call_nagger(&slow, &l, 0, &e), 0);
    link_done(&l);
}

/* An end that reads nothing is not written to without an end. */
static void
test_an_end_that_reads_nothing(void **state)
{
    (void)state;
    int ends[2], rc = 0;
    struct err e = {0};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    struct link a = {.in = ends[0], .out = ends[0], .peer = "b", .stall_ms = 20000};
    uint8_t *bytes = mem_zalloc(1 << 20);
    struct frame big = {.type = FRAME_LIST, .payload = bytes, .len = 1 << 20};
    link_init(&a);
    for (int i = 0; i < 100 && rc == 0; i++)
        rc = link_send(&a, &big, &e);
    assert_int_equal(rc, ERR_PROTOCOL);
    assert_string_equal(e.message, "b does not read what it is sent");
    link_done(&a);
    close(ends[0]);
    close(ends[1]);
    free(bytes);
}

/* Held frames go together, and none stays while its sender waits. */
static void
test_held_frames_go(void **state)
{
    (void)state;
    int ends[2], held = 0, seen = 0;
    struct err e = {0};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    struct link a = {.in = ends[0], .out = ends[0], .peer = "b", .stall_ms = 20000};
    struct link b = {.in = ends[1], .out = ends[1], .peer = "a", .stall_ms = 20000};
    struct frame small = {.type = FRAME_ASK, .payload = "?", .len = 1}, got;
    link_init(&a);
    link_init(&b);
    while (a.bytes_out == 0 && held < 100) {
        assert_int_equal(link_hold(&a, &small, &e), 0);
        held++;
    }
    assert_true(held < 100);
    while (seen < held && link_next(&b, &got, -1, &e) == 1)
        seen++;
    assert_int_equal(seen, held);
    assert_int_equal(link_hold(&a, &small, &e), 0);
    assert_int_equal(link_next(&a, &got, 1, &e), 0);
    assert_int_equal(link_next(&b, &got, -1, &e), 1);
    assert_int_equal(link_hold(&a, &small, &e), 0);
    assert_int_equal(link_write(&a, "", 0, &e), 0);
    assert_int_equal(link_next(&b, &got, -1, &e), 1);
    link_done(&a);
    link_done(&b);
    close(ends[0]);
    close(ends[1]);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_fast_link),
        cmocka_unit_test(test_a_slow_link),
        cmocka_unit_test(test_both_ends_send),
        cmocka_unit_test(test_a_torn_frame_is_the_last),
        cmocka_unit_test(test_pings_without_an_end),
        cmocka_unit_test(test_slow_frames),
        cmocka_unit_test(test_an_end_that_reads_nothing),
        cmocka_unit_test(test_held_frames_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
