/*
 * A copy from a peer that lies, stalls, or sends rubbish: it ends in an error that names the host, within its
 * deadline, and no byte of the lie is on the target's disk.
 */
#include "../../engine/agent/feed.h"
#include "../../engine/agent/remote_blocks.h"

#include "feed_unfit.h"

#include "moonrise/base/bytes.h"
#include "moonrise/base/crc32c.h"
#include "moonrise/base/err.h"
#include "moonrise/loop/loop.h"
#include "moonrise/wire/message.h"

#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>

#define FILE_BYTES (2 * PATCH_RANGE_BYTES + 5000)
#define STALL_MS   400
#define PATIENT_MS 20000

/* What the peer does wrong; each is a lie about one thing. */
enum lie {
    HONEST,
    GREETS_LATE_TALKER, /* a banner before the greeting, which is allowed */
    GREETS_NOISE,
    GREETS_NOT,
    GREETS_OTHER_PROTOCOL,
    GREETS_AS_AN_ECHO,
    LISTS_NOTHING,
    LISTS_OUTSIDE,
    LISTS_HUGE_FILE,
    LISTS_TWICE,
    LISTS_UNKNOWN_KIND,
    LISTS_UNKNOWN_FLAG,
    LISTS_HALF_AN_ENTRY,
    LISTS_OTHER_ROOT,
    LISTS_BOMB,
    LISTS_BLOCKS,
    LISTS_AND_STALLS,
    LISTS_UNFIT, /* what no copy contains: the first of unfit[] */
    LISTS_UNFIT_LAST = LISTS_UNFIT + UNFIT_COUNT - 1,
    SAYS_SAME, /* of what the target does not have */
    SAYS_MORE, /* than was asked for */
    SAYS_MORE_UNITS,
    SAYS_LESS_DATA,
    SAYS_MORE_DATA,
    SAYS_UNKNOWN_KIND,
    SAYS_RESERVED,
    SAYS_GONE_WITH_BYTES,
    SAYS_NOTHING,
    SAYS_ANOTHER_ID,
    SAYS_TWICE,
    SAYS_OUT_OF_ORDER,
    SAYS_DAMAGED,
    SAYS_BOMB,
    SAYS_PACKED_NOISE,
    SAYS_UNKNOWN_PACKING,
    SAYS_ENDLESS_FRAME,
    SAYS_UNKNOWN_FRAME,
    SAYS_LIST,
    SAYS_HALF, /* and ends */
    SAYS_HALF_AND_STALLS,
    SAYS_FAILURE,
    SAYS_NO_FAILURE, /* a failure that is no message */
    STALLS,
    ENDS,
    LIES,
};

struct peer {
    enum lie lie;
    int fd;
    struct link link;
    pthread_t thread;
};

static int
peer_frame(struct peer *p, int type, uint32_t id, const void *payload, size_t len)
{
    struct frame f = {.type = type, .id = id, .payload = payload, .len = len};
    struct str bytes = STR_INIT;
    frame_append(&bytes, &f);
    int rc = link_write(&p->link, bytes.data, bytes.len, NULL);
    str_free(&bytes);
    return rc;
}

/* A frame whose head was changed after it was sealed, with a right checksum. */
static void
peer_forged(struct peer *p, size_t at, uint8_t byte)
{
    uint8_t bytes[FRAME_HEAD_BYTES + 8] = {0};
    struct frame f = {.type = FRAME_BLOCKS, .payload = bytes + FRAME_HEAD_BYTES, .len = 8};
    frame_seal(bytes, &f);
    bytes[at] = byte;
    bytes_put32(bytes + 16, crc32c(crc32c(0, bytes, 16), bytes + FRAME_HEAD_BYTES, 8));
    link_write(&p->link, bytes, sizeof(bytes), NULL);
}

static void
peer_wait(struct peer *p)
{
    struct frame f;
    while (link_next(&p->link, &f, PATIENT_MS, NULL) == 1) /* until the other end gives up */
        continue;
}

/* What is packed says that it is a gigabyte. */
static void
peer_bomb(struct peer *p, int type)
{
    uint8_t bytes[FRAME_HEAD_BYTES + 64] = {0};
    struct frame f = {
        .type = type, .packing = FRAME_LZ4, .payload = bytes + FRAME_HEAD_BYTES, .len = 64};
    bytes_put32(bytes + FRAME_HEAD_BYTES, 1 << 30);
    frame_seal(bytes, &f);
    link_write(&p->link, bytes, sizeof(bytes), NULL);
    peer_wait(p);
}

static void
peer_greet(struct peer *p)
{
    static const char good[] = "{\"protocol\":1}", other[] = "{\"protocol\":7}";
    static const char echo[] = "{\"protocol\":1,\"seed\":\"5\",\"silence_ms\":60000}";
    char noise[1024];
    memset(noise, 'n', sizeof(noise));
    if (p->lie == GREETS_LATE_TALKER)
        link_write(&p->link, noise, sizeof(noise), NULL);
    for (int i = 0; p->lie == GREETS_NOISE && i < 80; i++)
        link_write(&p->link, noise, sizeof(noise), NULL);
    if (p->lie == GREETS_NOT)
        peer_frame(p, FRAME_REPLY, 0, "{}", 2);
    else if (p->lie == GREETS_OTHER_PROTOCOL)
        peer_frame(p, FRAME_HELLO, 0, other, sizeof(other) - 1);
    else if (p->lie == GREETS_AS_AN_ECHO)
        peer_frame(p, FRAME_HELLO, 0, echo, sizeof(echo) - 1);
    else if (p->lie != GREETS_NOISE)
        peer_frame(p, FRAME_HELLO, 0, good, sizeof(good) - 1);
}

/* The honest list, but for one thing. */
static void
put_list(struct str *s, enum lie lie)
{
    feed_put_dir(s, &(struct patch_listed_dir){0, "", 0700, PATCH_DIR_COPY});
    feed_put_dir(s, &(struct patch_listed_dir){lie == LISTS_OTHER_ROOT ? 3 : 0, "base", 0700,
                                               PATCH_DIR_COPY});
    struct patch_listed_file file = {"file", FILE_BYTES, 0600, 0};
    if (lie == LISTS_OUTSIDE)
        file.name = "../../outside";
    if (lie == LISTS_HUGE_FILE)
        file.size = UINT64_MAX - 5;
    if (lie == LISTS_UNKNOWN_FLAG)
        file.flags = PATCH_ENTRY_GONE;
    feed_put_file(s, &file);
    if (lie == LISTS_TWICE)
        feed_put_file(s, &file);
    if (lie == LISTS_UNKNOWN_KIND)
        str_puts(s, "X");
    if (lie == LISTS_HALF_AN_ENTRY)
        s->len -= 3;
}

static void
peer_list(struct peer *p, uint32_t id)
{
    struct str s = STR_INIT;
    if (p->lie >= LISTS_UNFIT && p->lie <= LISTS_UNFIT_LAST)
        unfit_put(&s, &unfit[p->lie - LISTS_UNFIT]);
    else
        put_list(&s, p->lie);
    if (p->lie == LISTS_BOMB)
        peer_bomb(p, FRAME_LIST);
    if (p->lie == LISTS_AND_STALLS)
        peer_wait(p);
    if (p->lie != LISTS_NOTHING)
        peer_frame(p, p->lie == LISTS_BLOCKS ? FRAME_BLOCKS : FRAME_LIST, 0, s.data, s.len);
    peer_frame(p, FRAME_REPLY, id, "{}", 2);
    str_free(&s);
}

/* The answer that is right but for one thing: 'x' where it is, 'Z' where it is not. */
static void
peer_answer(struct peer *p, const struct feed_ask *ask, uint32_t id)
{
    static const size_t before = FEED_HEAD_BYTES + FEED_MAP_BYTES;
    uint8_t *room = mem_zalloc(before + PATCH_RANGE_BYTES + 64), *at;
    struct patch_answer answer = {.data = room + before, .bytes = ask->bytes};
    memset(answer.data, p->lie <= GREETS_LATE_TALKER ? 'x' : 'Z', ask->bytes);
    memset(answer.differs, 1, sizeof(answer.differs));
    size_t len = feed_put_blocks(&at, &answer);
    switch (p->lie) {
    case SAYS_SAME:
        at[0] = FEED_SAME;
        len = FEED_HEAD_BYTES;
        break;
    case SAYS_MORE:
        bytes_put32(at + 4, ask->bytes + 1);
        break;
    case SAYS_MORE_UNITS:
        bytes_put32(at + 4, 8192);
        break;
    case SAYS_LESS_DATA:
        len--;
        break;
    case SAYS_MORE_DATA:
        len++;
        break;
    case SAYS_UNKNOWN_KIND:
        at[0] = FEED_KINDS;
        break;
    case SAYS_RESERVED:
        at[2] = 1;
        break;
    case SAYS_GONE_WITH_BYTES:
        at[0] = FEED_GONE;
        break;
    case SAYS_NOTHING:
        len = 3;
        break;
    default:
        break;
    }
    bool later = p->lie == SAYS_OUT_OF_ORDER || p->lie == SAYS_ANOTHER_ID;
    struct str bytes = STR_INIT;
    frame_append(&bytes, &(struct frame){.type = p->lie == SAYS_LIST ? FRAME_LIST : FRAME_BLOCKS,
                                         .id = later ? id + 1 : id,
                                         .payload = at,
                                         .len = len});
    if (p->lie == SAYS_DAMAGED)
        bytes.data[bytes.len / 2] ^= 1;
    bool half = p->lie == SAYS_HALF || p->lie == SAYS_HALF_AND_STALLS;
    link_write(&p->link, bytes.data, half ? bytes.len / 2 : bytes.len, NULL);
    str_free(&bytes);
    if (p->lie == SAYS_HALF_AND_STALLS)
        peer_wait(p);
    if (p->lie == SAYS_TWICE)
        peer_frame(p, FRAME_BLOCKS, id, at, len);
    free(room);
}

/* What is no answer at all. */
static bool
peer_instead(struct peer *p, uint32_t id)
{
    static const char failure[] = "{\"code\":\"io\",\"message\":\"the disk is gone\"}";
    uint8_t noise[FRAME_HEAD_BYTES + 200];
    memset(noise, 0x5a, sizeof(noise));
    bytes_put32(noise + FRAME_HEAD_BYTES, 5000);
    switch (p->lie) {
    case SAYS_BOMB:
        peer_bomb(p, FRAME_BLOCKS);
        return true;
    case SAYS_PACKED_NOISE:
        frame_seal(noise, &(struct frame){.type = FRAME_BLOCKS,
                                          .id = id,
                                          .packing = FRAME_ZSTD,
                                          .payload = noise + FRAME_HEAD_BYTES,
                                          .len = 200});
        link_write(&p->link, noise, sizeof(noise), NULL);
        return true;
    case SAYS_UNKNOWN_PACKING:
        peer_forged(p, 13, FRAME_PACKINGS);
        return true;
    case SAYS_ENDLESS_FRAME:
        peer_forged(p, 7, 0x7f);
        return true;
    case SAYS_UNKNOWN_FRAME:
        peer_forged(p, 12, FRAME_LIST + 1);
        return true;
    case SAYS_FAILURE:
        peer_frame(p, FRAME_FAIL, id, failure, sizeof(failure) - 1);
        return true;
    case SAYS_NO_FAILURE:
        peer_frame(p, FRAME_FAIL, id, "{{{", 3);
        return true;
    case STALLS:
        peer_wait(p);
        return true;
    default:
        return p->lie == ENDS;
    }
}

/* False when it has done with the conversation. */
static bool
peer_serve(struct peer *p, const struct frame *f)
{
    struct feed_ask ask;
    struct message *m;
    const char *op;
    if (f->type == FRAME_HELLO)
        return true;
    if (f->type == FRAME_ASK) {
        assert_int_equal(feed_get_ask(&ask, f->payload, f->len, NULL), 0);
        if (peer_instead(p, f->id))
            return p->lie != ENDS;
        peer_answer(p, &ask, f->id);
        return p->lie != SAYS_HALF;
    }
    assert_int_equal(f->type, FRAME_CALL);
    assert_int_equal(message_parse(&m, f->payload, f->len, NULL), 0);
    assert_int_equal(message_need_text(m, "op", &op, NULL), 0);
    if (strcmp(op, "list") == 0)
        peer_list(p, f->id);
    else
        peer_frame(p, FRAME_REPLY, f->id, "{}", 2);
    message_free(m);
    return true;
}

static void *
peer_run(void *arg)
{
    struct peer *p = arg;
    struct frame f;
    p->link =
        (struct link){.in = p->fd, .out = p->fd, .peer = "the tested end", .stall_ms = PATIENT_MS};
    link_init(&p->link);
    peer_greet(p);
    while (link_next(&p->link, &f, -1, NULL) == 1 && peer_serve(p, &f))
        continue;
    link_done(&p->link);
    shutdown(p->fd, SHUT_RDWR);
    return NULL;
}

struct liar_way {
    struct remote_way way;
    enum lie lie;
};

struct liar_process {
    struct peer peer;
    int fd;
};

static int
liar_open(const struct remote_way *way, const atomic_bool *cancel, void **process, int *fd,
          struct err *e)
{
    struct liar_process *l = mem_zalloc(sizeof(*l));
    int ends[2];
    (void)cancel;
    (void)e;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    l->peer.lie = ((const struct liar_way *)way)->lie;
    l->peer.fd = ends[1];
    l->fd = *fd = ends[0];
    assert_int_equal(pthread_create(&l->peer.thread, NULL, peer_run, &l->peer), 0);
    *process = l;
    return 0;
}

static void
liar_close(void *process)
{
    struct liar_process *l = process;
    close(l->fd);
    pthread_join(l->peer.thread, NULL);
    close(l->peer.fd);
    free(l);
}

/* A target in which half of the file is there already. */
static void
make_target(struct tree *t)
{
    tree_new(t, 1);
    tree_mkdir(t, "target/base");
    char *path = tree_path(t, "target/base/file");
    char *bytes = malloc(FILE_BYTES / 2);
    memset(bytes, 'o', FILE_BYTES / 2);
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    assert_int_equal(write(fd, bytes, FILE_BYTES / 2), FILE_BYTES / 2);
    close(fd);
    free(bytes);
    free(path);
}

/* No byte of the target is one of the lies, and nothing is outside of it. */
static uint64_t
count_bytes(struct tree *t, uint8_t which)
{
    char *path = tree_path(t, "target/base/file"), *outside = tree_path(t, "outside");
    FILE *f = fopen(path, "r");
    uint64_t n = 0;
    for (int c; f && (c = fgetc(f)) != EOF;)
        n += c == which;
    if (f)
        fclose(f);
    assert_int_not_equal(access(outside, F_OK), 0);
    free(path);
    free(outside);
    return n;
}

static int
copy_from(struct tree *t, enum lie lie, struct err *e)
{
    struct liar_way liar = {.way = {.host = "sdw9", .open = liar_open, .close = liar_close},
                            .lie = lie};
    char *target = tree_path(t, "target"), *space = tree_path(t, "space");
    struct patch_tablespace spaces[] = {{"16384", "/nowhere/space", space}};
    /* With one, the answers to several questions come on the same stream. */
    struct patch_spec spec = {.type = PATCH_DIFFERENTIAL,
                              .source_dir = "/nowhere",
                              .target_dir = target,
                              .tablespaces = spaces,
                              .tablespace_count = 1,
                              .threads = 1 + lie % 2};
    struct remote_blocks what = {.way = &liar.way, .spec = &spec, .stall_ms = STALL_MS};
    assert_int_equal(remote_blocks_new(&spec.source, &what, e), 0);
    int rc = patch_run(&spec, e);
    spec.source->free(spec.source);
    free(target);
    free(space);
    return rc;
}

static void
test_honest(void **state)
{
    (void)state;
    for (enum lie lie = HONEST; lie <= GREETS_LATE_TALKER; lie++) {
        struct tree t;
        struct err e = {0};
        make_target(&t);
        if (copy_from(&t, lie, &e) != 0)
            fail_msg("%s", e.message);
        assert_true(count_bytes(&t, 'x') == FILE_BYTES);
        tree_free(&t);
    }
}

static void
test_liars(void **state)
{
    (void)state;
    for (enum lie lie = GREETS_NOISE; lie < LIES; lie++) {
        struct tree t;
        struct err e = {0};
        int64_t began = clock_ms();
        make_target(&t);
        int rc = copy_from(&t, lie, &e);
        print_message("%2d: %s\n", lie, e.message);
        bool named = strstr(e.message, "sdw9") || rc == ERR_FORMAT || lie == LISTS_NOTHING ||
                     lie == SAYS_FAILURE;
        if (rc >= 0 || !named || clock_ms() - began > PATIENT_MS / 2)
            fail_msg("lie %d: code %d, %s", lie, rc, e.message);
        bool stalls = lie == STALLS || lie == LISTS_AND_STALLS || lie == SAYS_HALF_AND_STALLS;
        assert_true(!stalls || rc == ERR_TIMEOUT);
        /* What came twice, or in front of the lie, was right as such. */
        bool right_first = lie == SAYS_TWICE;
        assert_true(right_first || count_bytes(&t, 'Z') == 0);
        assert_true(unfit_is_absent(&t));
        tree_free(&t);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_honest),
        cmocka_unit_test(test_liars),
    };
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
