/*
 * Which packing a sender takes: none where the link keeps up, a strong one where it does not, none again where
 * nothing is gained. And what a link does with an end that takes nothing.
 */
#include "moonrise/wire/pace.h"

#include "../lib/tmpdir.h"

#include "moonrise/base/err.h"
#include "moonrise/wire/link.h"

#include <sys/socket.h>

#define PAYLOAD (256u << 10)

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
        cmocka_unit_test(test_held_frames_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
