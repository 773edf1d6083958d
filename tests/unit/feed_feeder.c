/*
 * A feeder that is asked for what is none of its business, or in a way that makes no sense.
 */
#include "../../engine/agent/feed.h"

#include "patch_tree.h"

#include "moonrise/agent/agent.h"
#include "moonrise/base/err.h"
#include "moonrise/loop/loop.h"
#include "moonrise/wire/link.h"
#include "moonrise/wire/message.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define PATIENT_MS 20000
#define SILENCE_MS 2000

/* A feeder in a process of its own, and a link with it. */
struct fed {
    struct link link;
    pid_t pid;
};

/* What a container may do: the call is refused. */
static void
forbid_pidfd_open(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_pidfd_open, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof(code) / sizeof(code[0]), .filter = code};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

static void
feeder_start_as(struct fed *f, int silence_ms, void (*prepare)(void))
{
    char hello[100];
    int len = snprintf(hello, sizeof hello, "{\"protocol\":1,\"seed\":\"5\",\"silence_ms\":%d}",
                       silence_ms);
    struct frame greeting;
    int ends[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    f->pid = fork();
    if (f->pid == 0) {
        dup2(ends[1], STDIN_FILENO);
        dup2(ends[1], STDOUT_FILENO);
        if (prepare)
            prepare();
        _exit(feeder_main());
    }
    close(ends[1]);
    f->link =
        (struct link){.in = ends[0], .out = ends[0], .peer = "the feeder", .stall_ms = PATIENT_MS};
    link_init(&f->link);
    greeting = (struct frame){.type = FRAME_HELLO, .payload = hello, .len = (size_t)len};
    assert_int_equal(link_send(&f->link, &greeting, NULL), 0);
    assert_int_equal(link_next(&f->link, &greeting, -1, NULL), 1);
    assert_int_equal(greeting.type, FRAME_HELLO);
}

static void
feeder_start(struct fed *f, int silence_ms)
{
    feeder_start_as(f, silence_ms, NULL);
}

/* Sends a frame and gathers what comes until one of the type `until`, or a failure. */
static int
feeder_says(struct fed *f, const struct frame *what, int until, struct str *answer)
{
    struct frame back;
    int rc;
    link_send(&f->link, what, NULL);
    while ((rc = link_next(&f->link, &back, -1, NULL)) == 1) {
        if (back.type == FRAME_PING)
            link_send(&f->link, &(struct frame){.type = FRAME_PONG}, NULL);
        str_append(answer, back.payload, back.len);
        if (back.type == until || back.type == FRAME_FAIL)
            return back.type;
    }
    return rc;
}

/* The exit code, once it has ended by itself. */
static int
feeder_end(struct fed *f)
{
    int status;
    struct frame back;
    while (link_next(&f->link, &back, -1, NULL) == 1)
        continue;
    link_done(&f->link);
    shutdown(f->link.in, SHUT_RDWR);
    close(f->link.in);
    assert_int_equal(waitpid(f->pid, &status, 0), f->pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static int
feeder_call(struct fed *f, const char *text, struct str *answer)
{
    struct frame call = {.type = FRAME_CALL, .id = 1, .payload = text, .len = strlen(text)};
    return feeder_says(f, &call, FRAME_REPLY, answer);
}

/* Asks a feeder of the directory `below` for a file; whether its content comes. */
static bool
feeder_gives(struct tree *t, uint32_t root, const char *dir, const char *name)
{
    struct str question = STR_INIT, answer = STR_INIT;
    char *call = mem_printf("{\"op\":\"feed\",\"args\":{\"datadir\":\"%s/source\"}}", t->top);
    struct feed_ask ask = {.root = root, .bytes = 4096, .dir = dir, .name = name};
    struct fed f;
    feeder_start(&f, SILENCE_MS);
    assert_int_equal(feeder_call(&f, call, &answer), FRAME_REPLY);
    feed_put_ask(&question, &ask);
    struct frame frame = {.type = FRAME_ASK, .payload = question.data, .len = question.len};
    feeder_says(&f, &frame, FRAME_BLOCKS, &answer);
    shutdown(f.link.out, SHUT_WR);
    feeder_end(&f);
    bool given = memmem(answer.data, answer.len, "SECRET", 6) != NULL;
    free(call);
    str_free(&question);
    str_free(&answer);
    return given;
}

static void
test_feeder_keeps_to_its_directories(void **state)
{
    (void)state;
    struct tree t;
    static const char *const files[] = {"source/base/inside", "secret", "other/secret"};
    tree_new(&t, 3);
    tree_mkdir(&t, "source/base");
    tree_mkdir(&t, "other");
    for (int i = 0; i < 3; i++) {
        char *path = tree_path(&t, "%s", files[i]);
        FILE *f = fopen(path, "w");
        fputs("SECRET", f);
        fclose(f);
        free(path);
    }
    char *link = tree_path(&t, "source/base/link"), *dir = tree_path(&t, "source/away");
    char *other = tree_path(&t, "other"), *secret = tree_path(&t, "secret");
    assert_int_equal(symlink(secret, link), 0);
    assert_int_equal(symlink(other, dir), 0);
    assert_true(feeder_gives(&t, 0, "base", "inside"));
    assert_false(feeder_gives(&t, 0, "..", "secret"));
    assert_false(feeder_gives(&t, 0, "base/../..", "secret"));
    assert_false(feeder_gives(&t, 0, "", "../secret"));
    assert_false(feeder_gives(&t, 0, "base", "link"));
    assert_false(feeder_gives(&t, 0, "away", "secret"));
    assert_false(feeder_gives(&t, 7, "base", "inside"));
    free(link);
    free(dir);
    free(other);
    free(secret);
    tree_free(&t);
}

/* Wrong calls are refused; and it ends when it has heard nothing for the time that it was told. */
static void
test_feeder_refuses(void **state)
{
    (void)state;
    struct str answer = STR_INIT;
    static const char *const calls[] = {
        "{\"op\":\"list\"}",
        "{\"op\":\"control\"}",
        "{\"op\":\"begin\"}",
        "{\"op\":\"rm\"}",
        "{\"op\":\"source\",\"args\":{\"source\":{\"datadir\":\"/nowhere\"},\"slot\":\"s\"}}",
        "{\"op\":\"source\",\"args\":{\"source\":{\"datadir\":\"/"
        "\",\"host\":\"x\"},\"slot\":\"s\"}}",
        "{\"op\":\"feed\",\"args\":{\"datadir\":\"relative\"}}",
        "{\"op\":\"feed\",\"args\":{\"datadir\":\"/\",\"tablespaces\":[{\"oid\":\"../x\"}]}}"};
    struct fed f;
    feeder_start(&f, SILENCE_MS);
    for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++)
        assert_int_equal(feeder_call(&f, calls[i], &answer), FRAME_FAIL);
    int64_t began = clock_ms();
    assert_int_equal(feeder_end(&f), 1);
    assert_true(clock_ms() - began >= 1500 && clock_ms() - began < PATIENT_MS);
    str_free(&answer);
}

static void
test_feeder_ends_with_rubbish(void **state)
{
    (void)state;
    struct str answer = STR_INIT;
    struct fed f;
    feeder_start(&f, SILENCE_MS);
    assert_int_equal(link_write(&f.link, "rubbish that is no frame", 24, NULL), 0);
    assert_int_equal(feeder_end(&f), 1);
    feeder_start(&f, SILENCE_MS);
    assert_int_equal(feeder_call(&f, "no JSON", &answer), FRAME_FAIL);
    assert_int_equal(feeder_end(&f), 1);
    feeder_start(&f, SILENCE_MS);
    shutdown(f.link.out, SHUT_WR); /* which is how it ends when all is well */
    assert_int_equal(feeder_end(&f), 0);
    str_free(&answer);
}

/* The next thing that it says is a failure. */
static void
tells(struct fed *f, int code, const char *words)
{
    struct frame frame;
    struct message *m;
    struct err why;
    assert_int_equal(link_next(&f->link, &frame, -1, NULL), 1);
    assert_int_equal(frame.type, FRAME_FAIL);
    assert_int_equal(message_parse(&m, frame.payload, frame.len, NULL), 0);
    message_error(&why, m);
    message_free(m);
    assert_int_equal(why.code, code);
    assert_non_null(strstr(why.message, words));
}

/* Nobody says that a link is cut. One that feeds a copy ends when the one does that holds its backup, however
 * silent the target may be. */
static void
test_feeder_ends_with_the_backup(void **state)
{
    (void)state;
    struct tree t;
    struct fed holder, f;
    struct str answer = STR_INIT;
    tree_new(&t, 3);
    tree_mkdir(&t, "source");
    feeder_start(&holder, PATIENT_MS);
    feeder_start(&f, 100 * PATIENT_MS);
    char *call = mem_printf("{\"op\":\"feed\",\"args\":{\"datadir\":\"%s/source\",\"holder\":%d}}",
                            t.top, holder.pid);
    assert_int_equal(feeder_call(&f, call, &answer), FRAME_REPLY);
    assert_int_equal(feeder_call(&f, "{\"op\":\"list\"}", &answer), FRAME_REPLY);
    kill(holder.pid, SIGKILL);
    tells(&f, ERR_CONNECT, "holds the backup has ended");
    assert_int_equal(feeder_end(&f), 1);
    assert_int_equal(waitpid(holder.pid, NULL, 0), holder.pid);
    link_done(&holder.link);
    close(holder.link.in);
    feeder_start(&f, SILENCE_MS);
    str_clear(&answer);
    assert_int_equal(feeder_call(&f, call, &answer), FRAME_FAIL);
    assert_non_null(strstr(answer.data, "has ended"));
    shutdown(f.link.out, SHUT_WR);
    assert_int_equal(feeder_end(&f), 0);
    free(call);
    str_free(&answer);
    tree_free(&t);
}

/* Where processes cannot be watched, files are fed all the same. */
static void
test_feeder_without_a_watch(void **state)
{
    (void)state;
    struct tree t;
    struct fed f;
    struct str answer = STR_INIT;
    tree_new(&t, 3);
    tree_mkdir(&t, "source");
    char *call = mem_printf("{\"op\":\"feed\",\"args\":{\"datadir\":\"%s/source\",\"holder\":%d}}",
                            t.top, getpid());
    feeder_start_as(&f, SILENCE_MS, forbid_pidfd_open);
    assert_int_equal(feeder_call(&f, call, &answer), FRAME_REPLY);
    assert_int_equal(feeder_call(&f, "{\"op\":\"list\"}", &answer), FRAME_REPLY);
    shutdown(f.link.out, SHUT_WR);
    assert_int_equal(feeder_end(&f), 0);
    free(call);
    str_free(&answer);
    tree_free(&t);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_feeder_keeps_to_its_directories),
        cmocka_unit_test(test_feeder_refuses),
        cmocka_unit_test(test_feeder_ends_with_rubbish),
        cmocka_unit_test(test_feeder_ends_with_the_backup),
        cmocka_unit_test(test_feeder_without_a_watch),
    };
    signal(SIGPIPE, SIG_IGN);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
