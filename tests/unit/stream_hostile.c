/* The WAL receiver and a server that lies: whatever it says, that is an error, and no byte of it is written. */
#include "../lib/tmpdir.h"

#include "moonrise/base/bytes.h"
#include "moonrise/base/err.h"
#include "moonrise/conn/conn.h"
#include "moonrise/loop/loop.h"
#include "moonrise/stream/stream.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>

#define SILENCE_MS 1500
#define DRIP_MS    20
#define DRIPS      500

/* What the server answers; NULL is what a good one would. */
struct script {
    const char *name; /* of the session, as it tells it */
    const char *system, *timeline, *segment;
    const char *history_name, *history;
    const char *next, *next_lsn; /* after which the stream ends */
    void (*stream)(struct str *out);
    int code;
    const char *said;
};

struct liar {
    const struct script *script;
    atomic_bool *cancel; /* set while it drips: a message without an end, byte by byte; or NULL */
    int listening;
    int port;
    pthread_t thread;
};

static void
put32(struct str *s, uint32_t v)
{
    v = htonl(v);
    str_append(s, &v, 4);
}

static void
put16(struct str *s, uint16_t v)
{
    v = htons(v);
    str_append(s, &v, 2);
}

static void
put64(struct str *s, uint64_t v)
{
    put32(s, (uint32_t)(v >> 32));
    put32(s, (uint32_t)v);
}

static void
put_message(struct str *out, char kind, const struct str *body)
{
    str_append(out, &kind, 1);
    put32(out, (uint32_t)body->len + 4);
    str_append(out, body->data, body->len);
}

static void
put_text(struct str *out, char kind, const char *text)
{
    struct str body = STR_INIT;
    str_append(&body, text, strlen(text) + 1);
    put_message(out, kind, &body);
    str_free(&body);
}

static void
put_setting(struct str *out, const char *name, const char *value)
{
    struct str body = STR_INIT;
    str_append(&body, name, strlen(name) + 1);
    str_append(&body, value, strlen(value) + 1);
    put_message(out, 'S', &body);
    str_free(&body);
}

static void
put_ready(struct str *out)
{
    str_append(out, "Z\0\0\0\5I", 6);
}

/* One row of texts; the list ends with NULL. */
static void
put_row(struct str *out, const char *const *fields)
{
    struct str names = STR_INIT, row = STR_INIT;
    uint16_t n = 0;
    while (fields[n])
        n++;
    put16(&names, n);
    put16(&row, n);
    for (uint16_t i = 0; i < n; i++) {
        str_append(&names, "c\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0", 20);
        put32(&row, (uint32_t)strlen(fields[i]));
        str_puts(&row, fields[i]);
    }
    put_message(out, 'T', &names);
    put_message(out, 'D', &row);
    put_text(out, 'C', "SELECT 1");
    str_free(&names);
    str_free(&row);
}

/* WAL of `len` bytes from `lsn` on: the beginning of a good first page of a segment, unless it is spoiled. */
static void
put_wal(struct str *out, uint64_t lsn, uint64_t page_lsn, size_t len)
{
    struct str body = STR_INIT;
    uint8_t page[8192] = {0};
    bytes_put16(page, 0xD110);
    bytes_put16(page + 2, 2);
    bytes_put32(page + 4, 1);
    bytes_put64(page + 8, page_lsn);
    bytes_put64(page + 24, 77);
    bytes_put32(page + 32, 1 << 20);
    bytes_put32(page + 36, 8192);
    memset(page + 40, 'x', sizeof(page) - 40);
    str_puts(&body, "w");
    put64(&body, lsn);
    put64(&body, lsn);
    put64(&body, 0);
    str_append(&body, page, len);
    put_message(out, 'd', &body);
    str_free(&body);
}

static void
stream_elsewhere(struct str *out)
{
    put_wal(out, 0x500000, 0x500000, 8192);
}

static void
stream_bad_page(struct str *out)
{
    put_wal(out, 0x300000, 0x400000, 8192);
}

static void
stream_gap(struct str *out)
{
    put_wal(out, 0x300000, 0x300000, 8192);
    put_wal(out, 0x304000, 0x304000, 8192);
}

static void
stream_unknown(struct str *out)
{
    put_text(out, 'd', "xyz");
}

static void
stream_empty(struct str *out)
{
    put_message(out, 'd', &(struct str)STR_INIT);
}

static void
stream_endless(struct str *out)
{
    str_append(out, "d\x00\x10\x00\x00w", 6);
}

static void
stream_nothing(struct str *out)
{
    (void)out;
}

static const char * or (const char *given, const char *otherwise)
{
    return given ? given : otherwise;
}

/* Answers one command; false when nothing more is to be said. */
static bool
answer(struct str *out, const struct script *s, const char *command)
{
    const char *const identity[] = { or (s->system, "77"), or (s->timeline, "1"), "0/300100", "",
                                     NULL};
    const char *const history[] = { or (s->history_name, "00000002.history"), or (s->history, ""),
                                    NULL};
    const char *const next[] = {s->next, s->next_lsn, NULL};
    const char *show[] = {"0700", NULL};
    if (strcmp(command, "SHOW wal_segment_size") == 0)
        show[0] = or (s->segment, "1MB");
    if (strcmp(command, "SHOW wal_block_size") == 0)
        show[0] = "8192";
    if (strncmp(command, "SHOW", 4) == 0)
        put_row(out, show);
    else if (strcmp(command, "IDENTIFY_SYSTEM") == 0)
        put_row(out, identity);
    else if (strncmp(command, "TIMELINE_HISTORY", 16) == 0)
        put_row(out, history);
    else if (s->next)
        put_row(out, next);
    else {
        str_append(out, "W\0\0\0\7\0\0\0", 8);
        s->stream(out);
        return false;
    }
    put_ready(out);
    return true;
}

static bool
receive_all(int fd, void *buf, size_t len)
{
    return recv(fd, buf, len, MSG_WAITALL) == (ssize_t)len;
}

static bool
send_all(int fd, struct str *out)
{
    bool sent = send(fd, out->data, out->len, MSG_NOSIGNAL) == (ssize_t)out->len;
    str_clear(out);
    return sent;
}

/* Until the other end says that it has had enough, or that is not to be expected any more. */
static void
drip(int fd, atomic_bool *cancel)
{
    struct pollfd said = {.fd = fd, .events = POLLIN};
    for (int i = 0; i < DRIPS && send(fd, "x", 1, MSG_NOSIGNAL) == 1; i++) {
        atomic_store(cancel, i >= DRIPS / 100);
        if (poll(&said, 1, DRIP_MS) > 0)
            break;
    }
}

static void *
lie(void *arg)
{
    struct liar *l = arg;
    struct str out = STR_INIT;
    char head[5], text[512];
    uint32_t len;
    int fd = accept(l->listening, NULL, NULL);
    assert_true(receive_all(fd, &len, 4) && ntohl(len) < sizeof(text));
    receive_all(fd, text, ntohl(len) - 4);
    str_append(&out, "R\0\0\0\x8\0\0\0\0", 9);
    put_setting(&out, "server_version", "15.20");
    put_setting(&out, "client_encoding", "UTF8");
    put_setting(&out, "application_name", or (l->script->name, "archive"));
    put_ready(&out);
    bool goes_on = send_all(fd, &out);
    while (goes_on && receive_all(fd, head, 5) && head[0] == 'Q') {
        memcpy(&len, head + 1, 4);
        len = ntohl(len) - 4;
        if (len >= sizeof(text) || !receive_all(fd, text, len))
            break;
        goes_on = answer(&out, l->script, text);
        goes_on = send_all(fd, &out) && goes_on;
    }
    if (l->cancel)
        drip(fd, l->cancel);
    /* Silent from now on, until the other end has had enough. */
    while (!l->cancel && recv(fd, text, sizeof(text), 0) > 0)
        ;
    close(fd);
    str_free(&out);
    return NULL;
}

static void
liar_begin(struct liar *l, const struct script *script)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(a);
    l->script = script;
    l->listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(l->listening, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(listen(l->listening, 1), 0);
    assert_int_equal(getsockname(l->listening, (struct sockaddr *)&a, &size), 0);
    l->port = ntohs(a.sin_port);
    assert_int_equal(pthread_create(&l->thread, NULL, lie, l), 0);
}

static void
heard(void *arg, const struct stream_event *event)
{
    (void)arg;
    (void)event;
}

static int
receive(const struct liar *l, const char *dir, struct err *e)
{
    static const atomic_bool goes_on;
    char *port = mem_printf("%d", l->port);
    const char *keywords[] = {"host", "port", "user", "sslmode", NULL};
    const char *values[] = {"127.0.0.1", port, "x", "disable", NULL};
    struct stream_spec spec = {.params = {keywords, values},
                               .directory = dir,
                               .sync = true,
                               .connect_ms = 20000,
                               .silence_ms = l->cancel ? 4 * DRIPS * DRIP_MS : SILENCE_MS,
                               .cancel = l->cancel ? l->cancel : &goes_on,
                               .said = heard};
    struct stream_result result;
    int rc = stream_receive(&result, &spec, e);
    free(port);
    return rc;
}

/* What comes of one script. What lies in the directory afterwards has no byte of the liar's. */
static void
refuses(const struct script *script)
{
    struct liar l = {0};
    struct err e = {0};
    liar_begin(&l, script);
    char *dir = tmpdir_make();
    int rc = receive(&l, dir, &e);
    pthread_join(l.thread, NULL);
    close(l.listening);
    if (rc != script->code || !strstr(e.message, script->said))
        fail_msg("\"%s\" wanted: %s: %s", script->said, err_name(rc), e.message);
    tmpdir_do(dir, "cd $DIR; for f in *; do case $f in '*') ;; *.partial) "
                   "[ \"$(tail -c +8193 $f | tr -d '\\0' | wc -c)\" = 0 ];; *) false;; esac; done");
    tmpdir_remove(dir);
}

/* A message that comes byte by byte keeps nobody from leaving. */
static void
test_cancelled_while_it_drips(void **state)
{
    (void)state;
    static const struct script script = {.stream = stream_endless};
    atomic_bool cancel = false;
    struct liar l = {.cancel = &cancel};
    struct err e = {0};
    liar_begin(&l, &script);
    char *dir = tmpdir_make();
    int64_t began = clock_ms();
    assert_int_equal(receive(&l, dir, &e), ERR_CANCELLED);
    assert_true(clock_ms() - began < DRIPS * DRIP_MS / 2);
    pthread_join(l.thread, NULL);
    close(l.listening);
    tmpdir_remove(dir);
}

static void
test_liars(void **state)
{
    (void)state;
    static const struct script scripts[] = {
        {.name = "mr_0_3", .code = ERR_REFUSED, .said = "is a mirror's"},
        {.system = "x", .code = ERR_PROTOCOL, .said = "no number"},
        {.system = "-1", .code = ERR_PROTOCOL, .said = "no number"},
        {.timeline = "4294967296", .code = ERR_PROTOCOL, .said = "no number"},
        {.timeline = "0", .code = ERR_PROTOCOL, .said = "no timeline"},
        {.segment = "3MB", .code = ERR_PROTOCOL, .said = "wal_segment_size"},
        {.segment = "64kB", .code = ERR_PROTOCOL, .said = "segments have"},
        {.segment = "99999999999999GB", .code = ERR_PROTOCOL, .said = "wal_segment_size"},
        {.timeline = "2", .history = "rubbish", .code = ERR_FORMAT, .said = "timeline"},
        {.timeline = "2",
         .history_name = "../x",
         .history = "1\t0/200000\t",
         .code = ERR_PROTOCOL,
         .said = "another file"},
        {.next = "1",
         .next_lsn = "0/300000",
         .code = ERR_PROTOCOL,
         .said = "goes on as timeline 1"},
        {.next = "2",
         .next_lsn = "0/300001",
         .code = ERR_PROTOCOL,
         .said = "goes on as timeline 2"},
        {.next = "2", .next_lsn = "x", .code = ERR_PROTOCOL, .said = "does not say how"},
        {.stream = stream_elsewhere, .code = ERR_PROTOCOL, .said = "0/300000 comes next"},
        {.stream = stream_gap, .code = ERR_PROTOCOL, .said = "0/302000 comes next"},
        {.stream = stream_bad_page, .code = ERR_FORMAT, .said = "another address"},
        {.stream = stream_unknown, .code = ERR_PROTOCOL, .said = "a message of kind 120"},
        /* libpq drops it. */
        {.stream = stream_empty, .code = ERR_TIMEOUT, .said = "has said nothing"},
        {.stream = stream_endless, .code = ERR_TIMEOUT, .said = "has said nothing"},
        {.stream = stream_nothing, .code = ERR_TIMEOUT, .said = "has said nothing"},
    };
    for (size_t i = 0; i < sizeof(scripts) / sizeof(scripts[0]); i++)
        refuses(&scripts[i]);
}

int
main(void)
{
    conn_clear_environment();
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_liars),
                                       cmocka_unit_test(test_cancelled_while_it_drips)};
    return cmocka_run_group_tests_name("stream_hostile", tests, NULL, NULL);
}
