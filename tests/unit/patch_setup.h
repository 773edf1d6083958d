/*
 * A patch of a struct tree, from its source to its target, with its tablespace where it has one.
 */
#ifndef TESTS_UNIT_PATCH_SETUP_H
#define TESTS_UNIT_PATCH_SETUP_H

#include "moonrise/base/err.h"
#include "moonrise/patch/patch.h"
#include "patch_tree.h"

#include <signal.h>
#include <sys/resource.h>

/* What the spec points to lives in here. */
struct setup {
    struct patch_spec spec;
    struct patch_tablespace ts;
    struct patch_progress progress;
    atomic_bool cancel;
    char *paths[5];
};

static inline void
setup_init(struct setup *s, const struct tree *t, enum patch_type type)
{
    static const char *const names[] = {"source", "target", "ts_source", "ts_target", "target_wal"};
    memset(s, 0, sizeof(*s));
    for (int i = 0; i < 5; i++)
        s->paths[i] = tree_path(t, "%s", names[i]);
    s->ts = (struct patch_tablespace){"16500", s->paths[2], s->paths[3]};
    s->spec = (struct patch_spec){
        .type = type,
        .source_dir = s->paths[0],
        .target_dir = s->paths[1],
        .target_wal_dir = s->paths[4],
        .tablespaces = &s->ts,
        .tablespace_count = access(s->paths[2], F_OK) == 0,
        .progress = &s->progress,
        .cancel = &s->cancel,
    };
}

static inline void
setup_done(struct setup *s)
{
    for (int i = 0; i < 5; i++)
        free(s->paths[i]);
}

static inline void
run_well(struct setup *s)
{
    struct err e = {0};
    if (patch_run(&s->spec, &e) != 0)
        fail_msg("%s", e.message);
    assert_int_equal(s->progress.stage, PATCH_DONE);
}

/* On a disk that refuses the byte after `most` of any file. */
static inline int
run_on_small_disk(struct setup *s, rlim_t most, struct err *e)
{
    struct rlimit old;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    struct rlimit small = {.rlim_cur = most, .rlim_max = old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    int rc = patch_run(&s->spec, e);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    return rc;
}

#endif
