/*
 * What patch_run refuses: places that are not apart, a source that lies. And patch_finish.
 */
#include "moonrise/patch/source.h"

#include "moonrise/base/crc32c.h"
#include "moonrise/base/err.h"
#include "moonrise/patch/patch.h"
#include "moonrise/pg/control.h"
#include "patch_tree.h"

static int
run_between(const char *source, const char *target, const char *ts_source, const char *ts_target)
{
    struct patch_tablespace ts = {"16500", ts_source, ts_target};
    struct patch_spec spec = {.type = PATCH_DIFFERENTIAL,
                              .source_dir = source,
                              .target_dir = target,
                              .tablespaces = &ts,
                              .tablespace_count = ts_source ? 1 : 0};
    return patch_run(&spec, NULL);
}

/* Makes `link` a symbolic link to `to`, both below the tree's top. */
static void
link_to(const struct tree *t, const char *link, const char *to)
{
    char *a = tree_path(t, "%s", link);
    char *b = tree_path(t, "%s", to);
    assert_int_equal(symlink(b, a), 0);
    free(a);
    free(b);
}

static void
test_places(void **state)
{
    (void)state;
    struct tree t;
    tree_new(&t, 1);
    static const char *const dirs[] = {"s/in/pg_tblspc", "s/pg_tblspc", "s/pg_wal", "t",
                                       "ts/below"};
    for (size_t i = 0; i < sizeof(dirs) / sizeof(dirs[0]); i++)
        tree_mkdir(&t, dirs[i]);
    link_to(&t, "alias", "s");
    link_to(&t, "s/pg_tblspc/16500", "ts");
    char *p[9] = {tree_path(&t, "s"),        tree_path(&t, "t"),     tree_path(&t, "ts"),
                  tree_path(&t, "alias"),    tree_path(&t, "s/in"),  tree_path(&t, "ts/below"),
                  tree_path(&t, "s/in/new"), tree_path(&t, "new/x"), tree_path(&t, "t/ts")};
    assert_int_equal(run_between(p[0], p[0], NULL, NULL), ERR_REFUSED);
    assert_int_equal(run_between(p[0], p[3], NULL, NULL), ERR_REFUSED); /* another name of it */
    assert_int_equal(run_between(p[0], p[4], NULL, NULL), ERR_REFUSED); /* the target inside */
    assert_int_equal(run_between(p[4], p[0], NULL, NULL), ERR_REFUSED); /* the source inside */
    assert_int_equal(run_between(p[0], p[1], p[2], p[2]), ERR_REFUSED);
    assert_int_equal(run_between(p[0], p[1], p[2], p[5]), ERR_REFUSED);
    assert_int_equal(run_between(p[0], p[1], p[2], p[6]), ERR_REFUSED); /* made inside the source */
    assert_int_not_equal(access(p[6], F_OK), 0);                        /* and not made */
    assert_int_equal(run_between(p[0], p[1], NULL, NULL), ERR_REFUSED); /* no place for 16500 */
    assert_int_equal(run_between(p[0], p[7], p[2], p[8]), ERR_NOTFOUND);
    assert_int_equal(run_between(p[0], p[1], p[2], p[7]), 0);
    assert_int_equal(run_between(p[0], p[1], p[2], p[8]), 0); /* its own, inside its own */
    assert_int_equal(run_between(p[0], p[1], p[2], p[8]), 0);
    assert_int_equal(access(p[8], F_OK), 0); /* and it is no excess */
    assert_int_equal(run_between("s", p[1], NULL, NULL), ERR_ARGUMENT);
    for (int i = 0; i < 9; i++)
        free(p[i]);
    tree_free(&t);
}

/* A copied directory whose pg_wal is still a link to the source's. */
static void
test_shared_wal(void **state)
{
    (void)state;
    struct tree t;
    tree_new(&t, 1);
    tree_mkdir(&t, "s");
    tree_mkdir(&t, "t");
    tree_mkdir(&t, "wal");
    tree_file(&t, "wal/000000010000000000000001");
    link_to(&t, "s/pg_wal", "wal");
    link_to(&t, "t/pg_wal", "wal");
    char *s = tree_path(&t, "s");
    char *to = tree_path(&t, "t");
    char *segment = tree_path(&t, "wal/000000010000000000000001");
    assert_int_equal(run_between(s, to, NULL, NULL), ERR_REFUSED);
    assert_int_equal(access(segment, F_OK), 0);
    free(s);
    free(to);
    free(segment);
    tree_free(&t);
}

/* A source that lists `path` and `name`, and answers whatever. */
struct liar {
    struct patch_source base;
    const char *path;
    const char *name;
    uint32_t root;
};

/* The questions that one worker has open. */
struct liar_stream {
    uint32_t bytes[5];
    size_t count;
};

static bool liar_late;     /* what is asked for has vanished by then */
static size_t liar_most;   /* questions that were open at once */
static uint64_t liar_rate; /* bytes a second at most */

static int
liar_list(struct patch_source *s, struct patch_list *l, struct err *e)
{
    const struct liar *liar = (const struct liar *)s;
    int rc = patch_list_dir(l, &(struct patch_listed_dir){0, "", 0700, PATCH_DIR_COPY}, e);
    if (rc == 0)
        rc = patch_list_dir(
            l, &(struct patch_listed_dir){liar->root, liar->path, 0700, PATCH_DIR_COPY}, e);
    if (rc == 0)
        rc = patch_list_file(l, &(struct patch_listed_file){liar->name, 3u << 20, 0600, 0}, e);
    return rc;
}

static int
liar_open(struct patch_source *s, void **file, const struct patch_name *name, struct err *e)
{
    (void)s;
    *file = NULL;
    return strcmp(name->name, "vanished") == 0 ? err_set(e, ERR_NOTFOUND, "vanished") : 0;
}

/* Five questions at once. */
static int
liar_connect(struct patch_source *s, void **stream, uint32_t *window, const struct patch_link *link,
             struct err *e)
{
    (void)s;
    (void)link;
    (void)e;
    *window = 5;
    *stream = calloc(1, sizeof(struct liar_stream));
    return 0;
}

static int
liar_ask(void *stream, const struct patch_ask *ask, struct err *e)
{
    struct liar_stream *open = stream;
    (void)e;
    assert_true(open->count < 5);
    open->bytes[open->count++] = ask->bytes;
    liar_most = open->count > liar_most ? open->count : liar_most;
    return 0;
}

static int
liar_answer(void *stream, struct patch_answer *answer, struct err *e)
{
    struct liar_stream *open = stream;
    struct patch_ask ask = {.bytes = open->bytes[0]};
    (void)e;
    assert_true(open->count > 0);
    memmove(open->bytes, open->bytes + 1, --open->count * sizeof(open->bytes[0]));
    memset(answer->data, 'x', ask.bytes);
    answer->bytes = ask.bytes;
    answer->gone = liar_late;
    patch_answer_compare(answer, &ask);
    return 0;
}

static void
liar_close(struct patch_source *s, void *file)
{
    (void)s;
    (void)file;
}

static int
run_liar(struct tree *t, const char *path, const char *name, uint32_t root)
{
    struct liar liar = {
        .base = {.list = liar_list,
                 .connect = liar_connect,
                 .open = liar_open,
                 .ask = liar_ask,
                 .answer = liar_answer,
                 .close = liar_close,
                 .disconnect = free},
        .path = path,
        .name = name,
        .root = root,
    };
    char *target = tree_path(t, "t");
    struct patch_spec spec = {.type = PATCH_FULL,
                              .target_dir = target,
                              .source = &liar.base,
                              .max_rate = liar_rate,
                              .threads = 1};
    int rc = patch_run(&spec, NULL);
    free(target);
    return rc;
}

static void
test_hostile_source(void **state)
{
    (void)state;
    struct tree t;
    tree_new(&t, 1);
    tree_mkdir(&t, "t");
    tree_mkdir(&t, "outside");
    link_to(&t, "t/base", "outside");
    assert_int_equal(run_liar(&t, "a", "../../outside/x", 0), ERR_FORMAT);
    assert_int_equal(run_liar(&t, "../outside", "x", 0), ERR_FORMAT);
    assert_int_equal(run_liar(&t, "no/parent", "x", 0), ERR_FORMAT);
    assert_int_equal(run_liar(&t, "a", "x", 1), ERR_FORMAT); /* a tablespace nobody mapped */
    /* Through a link of the target: the link goes, what it led to stays. */
    assert_int_equal(run_liar(&t, "base", "x", 0), 0);
    char *outside = tree_path(&t, "outside/x");
    char *inside = tree_path(&t, "t/base/x");
    struct stat st;
    assert_int_not_equal(access(outside, F_OK), 0);
    assert_int_equal(stat(inside, &st), 0);
    assert_int_equal(st.st_size, 3 << 20);
    free(outside);
    free(inside);
    tree_free(&t);
}

/* As much of a control file as its reader looks at; offsets as in engine/pg/control.c. */
static void
write_control(const char *path, uint64_t sysid)
{
    uint8_t image[CONTROL_FILE_BYTES] = {0};
    static const struct {
        int at;
        uint32_t value;
    } fields[] = {{8, 1300}, {216, 8192}, {220, 131072}, {224, 8192}, {228, 16u << 20}};
    memcpy(image, &sysid, sizeof(sysid));
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++)
        memcpy(image + fields[i].at, &fields[i].value, 4);
    uint32_t crc = crc32c(0, image, 288);
    memcpy(image + 288, &crc, 4);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_int_equal(write(fd, image, sizeof(image)), sizeof(image));
    close(fd);
}

/* Listed, and gone when it was opened, or when it was asked for: what the target has under its name is
 * stale. */
static void
test_vanished(void **state)
{
    static const char *const names[] = {"vanished", "late"};
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct tree t;
        tree_new(&t, 1);
        tree_mkdir(&t, "t/base");
        char *path = tree_path(&t, "t/base/%s", names[i]);
        tree_write(&t, path, 5u << 20, false);
        liar_late = i == 1;
        assert_int_equal(run_liar(&t, "base", names[i], 0), 0);
        liar_late = false;
        assert_int_not_equal(access(path, F_OK), 0);
        free(path);
        tree_free(&t);
    }
}

/* A worker asks ahead; but what was asked for does not wait for its rate. */
static void
test_no_answer_waits_for_the_rate(void **state)
{
    (void)state;
    static const uint64_t rates[] = {0, 16u << 20};
    for (int i = 0; i < 2; i++) {
        struct tree t;
        tree_new(&t, 1);
        tree_mkdir(&t, "t/base");
        liar_rate = rates[i];
        liar_most = 0;
        /* It asks for what there is: the driver may be slower. */
        for (int tries = 0; tries < 100 && liar_most < (liar_rate ? 1 : 3); tries++)
            assert_int_equal(run_liar(&t, "base", "x", 0), 0);
        assert_int_equal(liar_most, liar_rate ? 1 : 3);
        tree_free(&t);
    }
    liar_rate = 0;
}

static void
test_finish(void **state)
{
    (void)state;
    struct tree t;
    struct control control;
    tree_new(&t, 1);
    tree_mkdir(&t, "s/global");
    tree_mkdir(&t, "t/global");
    char *source = tree_path(&t, "s");
    char *target = tree_path(&t, "t");
    char *from = tree_path(&t, "s/global/pg_control");
    char *to = tree_path(&t, "t/global/pg_control");
    char *left = tree_path(&t, "t/global/pg_control.new");
    struct patch_spec spec = {.source_dir = source, .target_dir = target};
    assert_int_equal(patch_finish(&spec, NULL), ERR_NOTFOUND);
    tree_write(&t, from, 0, false); /* no control file at all */
    assert_int_equal(patch_finish(&spec, NULL), ERR_FORMAT);
    assert_int_not_equal(access(to, F_OK), 0);
    assert_int_not_equal(access(left, F_OK), 0);
    tree_write(&t, left, 100, false); /* an earlier one was killed */
    for (uint64_t sysid = 1; sysid < 3; sysid++) {
        struct stat st;
        write_control(from, sysid);
        assert_int_equal(patch_finish(&spec, NULL), 0);
        assert_int_equal(control_read(&control, to, NULL, NULL), 0);
        assert_int_equal(control.system_identifier, sysid);
        assert_int_equal(stat(to, &st), 0);
        assert_int_equal(st.st_size, CONTROL_FILE_BYTES);
        assert_int_equal(st.st_mode & 0777, 0600);
        assert_int_not_equal(access(left, F_OK), 0);
    }
    free(source);
    free(target);
    free(from);
    free(to);
    free(left);
    tree_free(&t);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_places),         cmocka_unit_test(test_shared_wal),
        cmocka_unit_test(test_hostile_source), cmocka_unit_test(test_vanished),
        cmocka_unit_test(test_finish),         cmocka_unit_test(test_no_answer_waits_for_the_rate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
