/*
 * Compares the two data directories of a struct tree without using anything of the engine.
 */
#ifndef TESTS_UNIT_PATCH_CHECK_H
#define TESTS_UNIT_PATCH_CHECK_H

#include "patch_tree.h"

#include <ctype.h>

static char *
check_format(const char *fmt, ...)
{
    char *text = NULL;
    va_list ap;
    va_start(ap, fmt);
    if (vasprintf(&text, fmt, ap) < 0)
        abort();
    va_end(ap);
    return text;
}

/* What a copy must not hold, by the names patch_tree.h makes. `below` is relative to the root. */
static bool
left_out(const char *dir_path, const char *below)
{
    const char *name = strrchr(below, '/') ? strrchr(below, '/') + 1 : below;
    static const char *const empty[] = {"pg_wal/",        "pg_replslot/", "pg_stat_tmp/",
                                        "pg_notify/",     "pg_subtrans/", "base/pgsql_tmp",
                                        "postmaster.pid", "moonrise."};
    for (size_t i = 0; i < sizeof(empty) / sizeof(empty[0]); i++)
        if (strncmp(below, empty[i], strlen(empty[i])) == 0)
            return true;
    if (strcmp(name, "pg_internal.init") == 0 || strcmp(name, "pg_control") == 0 ||
        strncmp(name, "t3_", 3) == 0)
        return true;
    size_t digits = 0;
    while (isdigit((unsigned char)name[digits]))
        digits++;
    if (digits == 0 || strcmp(name + digits, "_init") == 0 ||
        (strncmp(below, "base/", 5) != 0 && strncmp(below, "PG_", 3) != 0))
        return false;
    char *init = check_format("%s/%.*s_init", dir_path, (int)digits, name);
    bool unlogged = access(init, F_OK) == 0;
    free(init);
    return unlogged;
}

/* What the target keeps of its own, and what the test makes in pg_wal. */
static bool
is_own(const char *below)
{
    return strncmp(below, "moonrise.", 9) == 0 || strcmp(below, "postmaster.pid") == 0 ||
           strcmp(below, "pg_wal/archive_status") == 0 || strcmp(below, "global/pg_control") == 0;
}

static void
assert_same_file(const char *a, const char *b)
{
    struct stat sa;
    struct stat sb;
    assert_int_equal(stat(a, &sa), 0);
    if (lstat(b, &sb) != 0 || !S_ISREG(sb.st_mode) || sb.st_nlink != 1)
        fail_msg("%s is missing, or no file of its own", b);
    if (sa.st_size != sb.st_size)
        fail_msg("%s has %lld bytes, not %lld", b, (long long)sb.st_size, (long long)sa.st_size);
    assert_int_equal(sa.st_mode & 0777, sb.st_mode & 0777);
    uint8_t x[8192];
    uint8_t y[8192];
    int fa = open(a, O_RDONLY);
    int fb = open(b, O_RDONLY);
    ssize_t n;
    for (off_t at = 0; (n = pread(fa, x, sizeof(x), at)) > 0; at += n)
        if (pread(fb, y, sizeof(y), at) != n || memcmp(x, y, (size_t)n) != 0)
            fail_msg("%s differs at %lld", b, (long long)at);
    close(fa);
    close(fb);
}

static void check_contains(const char *from, const char *to, const char *below, bool same);

static void
check_entry(const char *from, const char *to, const char *path, bool same)
{
    char *a = check_format("%s/%s", from, path);
    char *b = check_format("%s/%s", to, path);
    struct stat st;
    struct stat other;
    assert_int_equal(lstat(a, &st), 0);
    if (S_ISDIR(st.st_mode) && strcmp(path, "pg_wal") != 0) {
        if (lstat(b, &other) != 0 || !S_ISDIR(other.st_mode))
            fail_msg("%s is no directory", b);
        check_contains(from, to, path, same);
    } else if (S_ISREG(st.st_mode) && same) {
        assert_same_file(a, b);
    } else if (S_ISREG(st.st_mode) && access(b, F_OK) != 0) {
        fail_msg("%s should have been deleted", a);
    }
    free(a);
    free(b);
}

/* All that `from` has is in `to` (with `same`: with the same bytes), but for what is left out. */
static void
check_contains(const char *from, const char *to, const char *below, bool same)
{
    char *dir_path = check_format("%s/%s", from, below);
    char *source_path = check_format("%s/%s", same ? from : to, below);
    DIR *dir = opendir(dir_path);
    const struct dirent *d;
    assert_non_null(dir);
    while ((d = readdir(dir))) {
        if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
            continue;
        char *path = check_format("%s%s%s", below, *below ? "/" : "", d->d_name);
        /* On the target, what is left out must not be, unless it is the instance's own. */
        if (!left_out(source_path, path))
            check_entry(from, to, path, same);
        else if (!same && !is_own(path))
            fail_msg("%s/%s should have been deleted", from, path);
        free(path);
    }
    closedir(dir);
    free(dir_path);
    free(source_path);
}

static int
count_names(const char *path)
{
    DIR *dir = opendir(path);
    int n = 0;
    while (dir && readdir(dir))
        n++;
    closedir(dir);
    return n - 2;
}

/* `ts_others`: files of somebody else in the target's tablespace directory, which must still be there. */
static void
assert_equal_trees(struct tree *t, bool ts_others)
{
    char *source = tree_path(t, "source");
    char *target = tree_path(t, "target");
    char *ts_source = tree_path(t, "ts_source");
    char *ts_target = tree_path(t, "ts_target");
    char *link = tree_path(t, "target/pg_tblspc/16500");
    char *wal = tree_path(t, "target/pg_wal");
    char *slots = tree_path(t, "target/pg_replslot");
    char *others = tree_path(t, "ts_target/others_file");
    char *own = tree_path(t, "target/moonrise.epoch");
    char to[PATH_MAX] = {0};
    check_contains(source, target, "", true);
    check_contains(target, source, "", false);
    check_contains(ts_source, ts_target, "PG_15_202209061", true);
    check_contains(ts_target, ts_source, "PG_15_202209061", false);
    assert_true(readlink(link, to, sizeof(to) - 1) > 0);
    char *ts = tree_path(t, "ts_target");
    assert_string_equal(to, ts);
    assert_int_equal(count_names(wal), 1); /* archive_status */
    assert_int_equal(count_names(slots), 0);
    if (ts_others) {
        assert_int_equal(access(others, F_OK), 0);
        assert_int_equal(access(own, F_OK), 0);
    }
    free(source);
    free(target);
    free(ts_source);
    free(ts_target);
    free(link);
    free(wal);
    free(slots);
    free(others);
    free(own);
    free(ts);
}

#endif
