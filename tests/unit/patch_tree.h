/*
 * Random data directories for the tests of the patch, and a checker that compares two of them without
 * using anything of the engine: it has its own idea of what must be copied, for the names made here.
 */
#ifndef TESTS_UNIT_PATCH_TREE_H
#define TESTS_UNIT_PATCH_TREE_H

#include "../lib/tmpdir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define TREE_HELPER __attribute__((unused)) static

struct tree {
    char *top; /* everything is below: source, target, ts_source, ts_target, wal, outside */
    uint64_t seed;
};

TREE_HELPER uint32_t
tree_random(struct tree *t, uint32_t below)
{
    t->seed = t->seed * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(t->seed >> 33) % below;
}

/* The paths of one call; the caller frees. */
TREE_HELPER char *
tree_path(const struct tree *t, const char *fmt, ...)
{
    char *below = NULL;
    char *path = NULL;
    va_list ap;
    va_start(ap, fmt);
    if (vasprintf(&below, fmt, ap) < 0 || asprintf(&path, "%s/%s", t->top, below) < 0)
        abort();
    va_end(ap);
    free(below);
    return path;
}

static int
tree_unlink_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    return remove(path);
}

TREE_HELPER void
tree_remove(const char *path)
{
    nftw(path, tree_unlink_one, 32, FTW_DEPTH | FTW_PHYS);
}

TREE_HELPER void
tree_new(struct tree *t, uint64_t seed)
{
    t->top = tmpdir_make();
    t->seed = seed;
}

/* Makes one directory, in the place of whatever is there. */
static void
tree_mkdir_one(const char *path)
{
    struct stat st;
    if (stat(path, &st) == 0 ? !S_ISDIR(st.st_mode) : lstat(path, &st) == 0)
        unlink(path);
    mkdir(path, 0700);
}

TREE_HELPER void
tree_mkdirs(const char *path)
{
    char *part = strdup(path);
    for (char *p = part + 1; *p; p++)
        if (*p == '/') {
            *p = '\0';
            tree_mkdir_one(part);
            *p = '/';
        }
    tree_mkdir_one(part);
    free(part);
}

TREE_HELPER void
tree_mkdir(const struct tree *t, const char *below)
{
    char *path = tree_path(t, "%s", below);
    tree_mkdirs(path);
    free(path);
}

/* Fills a unit so that equal seeds give equal bytes; some are zeros. */
static void
tree_fill(uint8_t *unit, uint64_t seed)
{
    memset(unit, 0, 8192);
    if (seed % 5 == 0)
        return;
    for (size_t i = 0; i < 8192; i += 8) {
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        memcpy(unit + i, &seed, 8);
    }
}

/* Writes a file of `size` bytes; with holes where a unit is zeros and `holes` is set. */
TREE_HELPER void
tree_write(struct tree *t, const char *path, uint64_t size, bool holes)
{
    uint8_t unit[8192];
    uint8_t zero[8192] = {0};
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0)
        abort();
    for (uint64_t at = 0; at < size; at += sizeof(unit)) {
        tree_fill(unit, tree_random(t, 1u << 30));
        size_t n = size - at < sizeof(unit) ? size - at : sizeof(unit);
        if (!(holes && memcmp(unit, zero, sizeof(unit)) == 0))
            if (pwrite(fd, unit, n, (off_t)at) != (ssize_t)n)
                abort();
    }
    if (ftruncate(fd, (off_t)size) != 0)
        abort();
    close(fd);
}

TREE_HELPER uint64_t
tree_size(struct tree *t)
{
    switch (tree_random(t, 12)) {
    case 0:
    case 1:
        return 0;
    case 2:
    case 3:
        return tree_random(t, 20000);
    case 4: /* around the ends of ranges */
        return (1u << 20) * (uint64_t)(1 + tree_random(t, 3)) + tree_random(t, 3) * 100;
    case 5:
        return (uint64_t)tree_random(t, 400) * 8192;
    default:
        return (uint64_t)tree_random(t, 20) * 8192;
    }
}

TREE_HELPER void
tree_file(struct tree *t, const char *below)
{
    char *path = tree_path(t, "%s", below);
    tree_write(t, path, tree_size(t), tree_random(t, 2) == 0);
    free(path);
}

/* Relations, and what lies beside them, in one database's directory. */
static void
tree_database(struct tree *t, const char *dir)
{
    static const char *const names[] = {
        "PG_VERSION", "pg_filenode.map", "1259",      "1259_fsm", "1259_vm",
        "2619",       "16384",           "16384.1",   "16384.2",  "16384_fsm",
        "16390",      "16390_init",      "16390_fsm", "16390.1",  "16391_init",
        "t3_16400",   "t3_16400.1",      "16401",     "163",      "163_init",
        "16402_vm",   "pg_internal.init"};
    tree_mkdir(t, dir);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char below[256];
        snprintf(below, sizeof(below), "%s/%s", dir, names[i]);
        if (tree_random(t, 8) != 0)
            tree_file(t, below);
    }
}

/* Files in the place of whatever is there by now. */
static void
tree_files(struct tree *t, const char *const *names, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        char *path = tree_path(t, "%s", names[i]);
        tree_remove(path);
        free(path);
        tree_file(t, names[i]);
    }
}

/* A source with everything: databases, SLRUs, directories of its own, a tablespace outside, a WAL
 * directory outside. */
TREE_HELPER void
tree_source(struct tree *t)
{
    static const char *const dirs[] = {"source",
                                       "source/global",
                                       "source/pg_xact",
                                       "source/pg_tblspc",
                                       "source/base",
                                       "source/pg_replslot/a",
                                       "source/pg_stat_tmp",
                                       "source/pg_notify",
                                       "source/pg_logical",
                                       "source/extra/deep",
                                       "source/base/pgsql_tmp",
                                       "ts_source/lost",
                                       "wal/archive_status",
                                       "outside",
                                       "source/pg_subtrans",
                                       "source/pg_multixact/members"};
    static const char *const files[] = {"source/PG_VERSION",
                                        "source/global/1260",
                                        "source/global/1213_fsm",
                                        "source/pg_xact/0000",
                                        "source/pg_xact/0001",
                                        "source/pg_replslot/a/state",
                                        "source/pg_stat_tmp/x",
                                        "source/pg_notify/0000",
                                        "source/extra/deep/file",
                                        "source/extra/with space",
                                        "source/base/pgsql_tmp/pgsql_tmp12.0",
                                        "source/postmaster.pid",
                                        "ts_source/lost/found",
                                        "ts_source/loose",
                                        "wal/000000010000000000000001",
                                        "outside/canary",
                                        "source/pg_subtrans/0000",
                                        "source/global/pg_control",
                                        "source/pg_multixact/members/0000",
                                        "source/moonrise.lock",
                                        "source/moonrise.epoch"};
    for (size_t i = 0; i < sizeof(dirs) / sizeof(dirs[0]); i++)
        tree_mkdir(t, dirs[i]);
    tree_files(t, files, sizeof(files) / sizeof(files[0]));
    tree_database(t, "source/base/1");
    tree_database(t, "source/base/5");
    tree_database(t, "ts_source/PG_15_202209061/5");
    char *ts = tree_path(t, "ts_source");
    char *link = tree_path(t, "source/pg_tblspc/16500");
    char *wal = tree_path(t, "wal");
    char *wal_link = tree_path(t, "source/pg_wal");
    char *other = tree_path(t, "source/extra/link");
    if (symlink(ts, link) != 0 || symlink(wal, wal_link) != 0 || symlink("/nowhere", other) != 0)
        abort();
    free(ts);
    free(link);
    free(wal);
    free(wal_link);
    free(other);
}

static void
tree_copy_file(const char *from, const char *to, mode_t mode)
{
    uint8_t buf[65536];
    int in = open(from, O_RDONLY);
    int out = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ssize_t n;
    if (in < 0 || out < 0)
        abort();
    while ((n = read(in, buf, sizeof(buf))) > 0)
        if (write(out, buf, (size_t)n) != n)
            abort();
    fchmod(out, mode & 0777);
    close(in);
    close(out);
}

/* Spoils one file of the target in a random way. */
static void
tree_spoil(struct tree *t, const char *path)
{
    struct stat st;
    char *canary = tree_path(t, "outside/canary");
    char *dir_file = NULL;
    if (lstat(path, &st) != 0 || asprintf(&dir_file, "%s/16384", path) < 0)
        abort();
    uint32_t what = tree_random(t, 14);
    uint8_t unit[8192];
    int fd = what < 4 ? open(path, O_WRONLY) : -1;
    switch (what) {
    case 0: /* some blocks differ */
    case 1:
        for (int i = 0; i < 3 && st.st_size >= 8192; i++) {
            tree_fill(unit, tree_random(t, 1u << 30));
            off_t at = (off_t)tree_random(t, (uint32_t)(st.st_size / 8192)) * 8192;
            if (pwrite(fd, unit, sizeof(unit), at) < 0)
                abort();
        }
        break;
    case 2:
        if (ftruncate(fd, (off_t)tree_random(t, (uint32_t)st.st_size + 1)) != 0)
            abort();
        break;
    case 3:
        if (pwrite(fd, path, strlen(path), st.st_size + (off_t)tree_random(t, 2000000)) < 0)
            abort();
        break;
    case 4:
        unlink(path);
        break;
    case 5: /* a directory in its place, with something in it */
        unlink(path);
        mkdir(path, 0700);
        tree_write(t, dir_file, 100, false);
        break;
    case 6: /* a link out of the directory */
        unlink(path);
        if (symlink(canary, path) != 0)
            abort();
        break;
    case 7: /* another name of a file outside */
        unlink(path);
        if (link(canary, path) != 0)
            abort();
        break;
    case 8:
        unlink(path);
        if (mkfifo(path, 0600) != 0)
            abort();
        break;
    case 9:
        chmod(path, 0400);
        break;
    default:
        break;
    }
    if (fd >= 0)
        close(fd);
    free(dir_file);
    free(canary);
}

/* Copies `from` to `to`, and spoils it as it goes. Links are not copied. */
static void
tree_copy_spoiled(struct tree *t, const char *from, const char *to)
{
    DIR *dir = opendir(from);
    const struct dirent *d;
    tree_mkdirs(to);
    while (dir && (d = readdir(dir))) {
        char *a = NULL;
        char *b = NULL;
        struct stat st;
        if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
            continue;
        if (asprintf(&a, "%s/%s", from, d->d_name) < 0 ||
            asprintf(&b, "%s/%s", to, d->d_name) < 0 || lstat(a, &st) != 0)
            abort();
        if (S_ISDIR(st.st_mode) && tree_random(t, 16) == 0) {
            tree_write(t, b, 10, false); /* a file where a directory has to be */
        } else if (S_ISDIR(st.st_mode) && tree_random(t, 16) != 0) {
            tree_copy_spoiled(t, a, b);
        } else if (S_ISREG(st.st_mode)) {
            tree_copy_file(a, b, st.st_mode);
            tree_spoil(t, b);
        }
        free(a);
        free(b);
    }
    closedir(dir);
}

/* A target that was equal once; `wal_link` makes its pg_wal a link. */
TREE_HELPER void
tree_target(struct tree *t, bool wal_link)
{
    char *source = tree_path(t, "source");
    char *target = tree_path(t, "target");
    char *ts_source = tree_path(t, "ts_source");
    char *ts_target = tree_path(t, "ts_target");
    tree_copy_spoiled(t, source, target);
    tree_copy_spoiled(t, ts_source, ts_target);
    static const char *const dirs[] = {"target/base/99/x", "target/extra2/a/b", "target_wal"};
    static const char *const files[] = {"target/base/99/16384",
                                        "target/base/99/x/y",
                                        "target/extra2/a/b/c",
                                        "target/16384",
                                        "target/moonrise.epoch",
                                        "ts_target/others_file",
                                        "target_wal/000000010000000000000009"};
    for (size_t i = 0; i < sizeof(dirs) / sizeof(dirs[0]); i++)
        tree_mkdir(t, dirs[i]);
    size_t count = sizeof(files) / sizeof(files[0]);
    /* Without a link the directory is nobody's, and empty. */
    tree_files(t, files, count - (wal_link ? 0 : 1));
    char *wal = tree_path(t, "target_wal");
    char *link = tree_path(t, "target/pg_wal");
    if (wal_link && symlink(wal, link) != 0)
        abort();
    free(wal);
    free(link);
    free(source);
    free(target);
    free(ts_source);
    free(ts_target);
}

TREE_HELPER void
tree_free(struct tree *t)
{
    tmpdir_remove(t->top);
}

#endif
