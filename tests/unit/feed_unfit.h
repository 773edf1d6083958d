/*
 * What no copy contains: entries that a source lists only to have them written where they do harm, or to have
 * deleted what is the target's.
 */
#ifndef TESTS_UNIT_FEED_UNFIT_H
#define TESTS_UNIT_FEED_UNFIT_H

#include "../../engine/agent/feed.h"

#include "patch_tree.h"

#define UNFIT_BYTES 10000

/* A directory and a file in it, where one is named. */
static const struct unfit {
    uint32_t root;
    const char *dir, *name;
    enum patch_dir_kind kind;
    uint32_t flags;
} unfit[] = {
    {0, "", "postmaster.pid", PATCH_DIR_COPY, 0},
    {0, "", "moonrise.epoch", PATCH_DIR_COPY, 0},
    {0, "", "moonrise.lock", PATCH_DIR_COPY, 0},
    {0, "", "standby.signal", PATCH_DIR_COPY, 0},
    {0, "", "postgresql.auto.conf", PATCH_DIR_COPY, 0},
    {0, "", "backup_label", PATCH_DIR_COPY, 0},
    {0, "", "moonrise.link", PATCH_DIR_COPY, PATCH_ENTRY_OTHER},
    {0, "", NULL, PATCH_DIR_EMPTY, 0},
    {0, "global", "pg_control", PATCH_DIR_COPY, 0},
    {0, "global", NULL, PATCH_DIR_EMPTY, 0},
    {0, "log", "postgresql.log", PATCH_DIR_COPY, 0},
    {0, "moonrise.d", "a", PATCH_DIR_COPY, 0},
    {0, "pg_wal", "000000010000000000000001", PATCH_DIR_COPY, 0},
    {0, "pg_notify", NULL, PATCH_DIR_COPY, 0},
    {1, "", "loose", PATCH_DIR_COPY, 0},
    {1, "others", "loose", PATCH_DIR_COPY, 0},
    {1, "PG_15_202209061", "pgsql_tmp1.0", PATCH_DIR_COPY, 0},
    {2, "", NULL, PATCH_DIR_COPY, 0},
};

#define UNFIT_COUNT (sizeof(unfit) / sizeof(*unfit))

/* The entries of a list that holds it, and what has to be there for it. */
static void
unfit_put(struct str *out, const struct unfit *u)
{
    enum patch_dir_kind top = *u->dir ? PATCH_DIR_COPY : u->kind;
    feed_put_dir(out, &(struct patch_listed_dir){u->root, "", 0700, top});
    if (*u->dir)
        feed_put_dir(out, &(struct patch_listed_dir){u->root, u->dir, 0700, u->kind});
    if (u->name)
        feed_put_file(out, &(struct patch_listed_file){u->name, UNFIT_BYTES, 0600, u->flags});
    if (u->root == 0)
        return;
    feed_put_dir(out, &(struct patch_listed_dir){0, "", 0700, PATCH_DIR_COPY});
    feed_put_dir(out, &(struct patch_listed_dir){0, "pg_tblspc", 0700, PATCH_DIR_COPY});
}

/* Whether none of them is on the target. */
static bool
unfit_is_absent(struct tree *t)
{
    bool absent = true;
    for (size_t i = 0; i < UNFIT_COUNT; i++) {
        char *path = tree_path(t, "%s/%s/%s", unfit[i].root ? "space" : "target", unfit[i].dir,
                               unfit[i].name ? unfit[i].name : "lie");
        absent &= access(path, F_OK) != 0;
        free(path);
    }
    return absent;
}

#endif
