/*
 * The streams of a copy from another host: how long they are waited for, and may be silent.
 */
#include "../../engine/agent/feed.h"
#include "../../engine/agent/remote_blocks.h"

#include "patch_tree.h"

#include "moonrise/base/err.h"
#include "moonrise/loop/loop.h"
#include "moonrise/wire/message.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>

#define PATIENT_MS 20000

/* A host of which one stream comes, that of the list; all others are on their way until they are ended. */
struct host {
    struct remote_way way;
    bool lists;            /* else the list fails, as all answers do */
    atomic_int silence_ms; /* that its feeder was told */
};

struct feeder {
    struct host *host;
    int fd, other_end;
    pthread_t thread;
};

static void
say(struct link *l, int type, const void *payload, size_t len)
{
    assert_int_equal(
        link_send(l, &(struct frame){.type = type, .payload = payload, .len = len}, NULL), 0);
}

static void
say_list(struct link *l)
{
    struct str s = STR_INIT;
    feed_put_dir(&s, &(struct patch_listed_dir){0, "", 0700, PATCH_DIR_COPY});
    feed_put_dir(&s, &(struct patch_listed_dir){0, "base", 0700, PATCH_DIR_COPY});
    feed_put_file(&s, &(struct patch_listed_file){"file", 5000, 0600, 0});
    say(l, FRAME_LIST, s.data, s.len);
    str_free(&s);
}

static void
answer(struct host *host, struct link *l, const struct frame *f)
{
    static const char failure[] = "{\"code\":\"io\",\"message\":\"the disk is gone\"}";
    struct message *m = NULL;
    if (f->type != FRAME_ASK)
        assert_int_equal(message_parse(&m, f->payload, f->len, NULL), 0);
    bool lists = m && strcmp(message_text(m, "op", ""), "list") == 0;
    if (f->type == FRAME_HELLO)
        atomic_store(&host->silence_ms, (int)message_int(m, "silence_ms", 0));
    else if (f->type == FRAME_ASK || (lists && !host->lists))
        say(l, FRAME_FAIL, failure, sizeof(failure) - 1);
    else {
        if (lists)
            say_list(l);
        say(l, FRAME_REPLY, "{}", 2);
    }
    message_free(m);
}

static void *
feed(void *arg)
{
    struct feeder *me = arg;
    struct frame f;
    struct link l = {.in = me->fd, .out = me->fd, .peer = "the target", .stall_ms = PATIENT_MS};
    link_init(&l);
    say(&l, FRAME_HELLO, "{\"protocol\":1}", 14);
    while (link_next(&l, &f, -1, NULL) == 1)
        answer(me->host, &l, &f);
    link_done(&l);
    return NULL;
}

/* The stream of the list ends with its order only. */
static int
way_open(const struct remote_way *way, const atomic_bool *cancel, void **process, int *fd,
         struct err *e)
{
    int64_t until = clock_ms() + PATIENT_MS;
    while (cancel && !atomic_load(cancel) && clock_ms() < until)
        poll(NULL, 0, 10);
    if (cancel)
        return err_set(e, ERR_CANCELLED, "cancelled");
    struct feeder *f = mem_zalloc(sizeof(*f));
    int ends[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    f->host = (struct host *)way;
    f->fd = ends[1];
    f->other_end = *fd = ends[0];
    assert_int_equal(pthread_create(&f->thread, NULL, feed, f), 0);
    *process = f;
    return 0;
}

static void
way_close(void *process)
{
    struct feeder *f = process;
    close(f->other_end);
    pthread_join(f->thread, NULL);
    close(f->fd);
    free(f);
}

/* What becomes of a copy, which fails long before the streams would come. */
static int
copy_from(struct host *host, int threads, uint64_t max_rate)
{
    struct tree t;
    struct err e = {0};
    tree_new(&t, 1);
    tree_mkdir(&t, "target/base");
    char *target = tree_path(&t, "target");
    host->way = (struct remote_way){.host = "sdw9", .open = way_open, .close = way_close};
    struct patch_spec spec = {.type = PATCH_DIFFERENTIAL,
                              .source_dir = "/nowhere",
                              .target_dir = target,
                              .threads = threads,
                              .max_rate = max_rate};
    struct remote_blocks what = {.way = &host->way, .spec = &spec, .stall_ms = PATIENT_MS};
    int64_t began = clock_ms();
    assert_int_equal(remote_blocks_new(&spec.source, &what, &e), 0);
    int rc = patch_run(&spec, &e);
    spec.source->free(spec.source);
    assert_true(clock_ms() - began < PATIENT_MS / 2);
    assert_non_null(strstr(e.message, "the disk is gone"));
    free(target);
    tree_free(&t);
    return rc;
}

/* What has failed is told at once, though streams are still on their way: before workers wait for them, and
 * when they do. */
static void
test_streams_that_are_not_awaited(void **state)
{
    (void)state;
    struct host refuses = {.lists = false}, lists = {.lists = true};
    assert_int_equal(copy_from(&refuses, 4, 0), ERR_IO);
    assert_int_equal(copy_from(&lists, 4, 0), ERR_IO);
}

/* Who copies at a low rate is silent for long. */
static void
test_a_low_rate_is_no_silence(void **state)
{
    (void)state;
    static const uint64_t rates[] = {0, 1000000000, 4000, 1};
    int told[4];
    for (int i = 0; i < 4; i++) {
        struct host host = {.lists = false};
        assert_int_equal(copy_from(&host, 1, rates[i]), ERR_IO);
        told[i] = atomic_load(&host.silence_ms);
    }
    assert_in_range(told[1] - told[0], 0, 1000);
    assert_in_range(told[2] - told[0], PATCH_RANGE_BYTES / 4, PATCH_RANGE_BYTES);
    assert_int_equal(told[3], FEED_SILENCE_MAX_MS);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_streams_that_are_not_awaited),
        cmocka_unit_test(test_a_low_rate_is_no_silence),
    };
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
