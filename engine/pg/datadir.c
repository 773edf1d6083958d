#include "moonrise/pg/datadir.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Directories whose contents mean something only to the server that wrote them, or come another way
 * (pg_wal, slots). basebackup.c: excludeDirContents, and sendDir for pg_wal. */
static const char *const empty_dirs[] = {
    "pg_dynshmem",  "pg_notify",   "pg_replslot", "pg_serial",
    "pg_snapshots", "pg_stat_tmp", "pg_subtrans", "pg_wal",
};

/* Files of a running server or of a backup that is none here: a target that kept its own would replay
 * from a wrong place or trust a wrong manifest. basebackup.c: excludeFiles. */
static const char *const dropped_files[] = {
    "current_logfiles.tmp", "current_logfiles",   "backup_label",    "backup_label.old",
    "tablespace_map",       "tablespace_map.old", "backup_manifest", "recovery.done",
};

/* What is this instance's alone. postgresql.auto.conf is merged, not copied; the signal files say which
 * role it has; its log tells its own story. */
static const char *const own_files[] = {
    "postgresql.auto.conf", "standby.signal",  "recovery.signal",
    "postmaster.pid",       "postmaster.opts", "log",
};

#define COUNT(a) (sizeof(a) / sizeof((a)[0]))

static bool
listed(const char *const *list, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(list[i], name) == 0)
            return true;
    return false;
}

static bool
begins(const char *text, const char *prefix)
{
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

static bool
ends(const char *text, const char *suffix)
{
    size_t len = strlen(text), tail = strlen(suffix);
    return len >= tail && strcmp(text + len - tail, suffix) == 0;
}

static enum datadir_class
classify_top(const char *name, bool is_dir)
{
    if (is_dir && listed(empty_dirs, COUNT(empty_dirs), name))
        return DATADIR_EMPTY_DIR;
    if (listed(own_files, COUNT(own_files), name) || begins(name, "moonrise.") ||
        begins(name, ".s.PGSQL."))
        return DATADIR_SKIP;
    /* The server's own and what a killed io_write_durable leaves. */
    if (!is_dir && begins(name, "postgresql.auto.conf.") && ends(name, ".tmp"))
        return DATADIR_DROP;
    if (!is_dir && listed(dropped_files, COUNT(dropped_files), name))
        return DATADIR_DROP;
    return DATADIR_COPY;
}

/* What lies below one of the directories that classify_top decides as a whole. */
static enum datadir_class
classify_below_top(const char *path, const char *slash)
{
    size_t len = (size_t)(slash - path);
    if (len == 3 && begins(path, "log"))
        return DATADIR_SKIP;
    for (size_t i = 0; i < COUNT(empty_dirs); i++)
        if (strlen(empty_dirs[i]) == len && begins(path, empty_dirs[i]))
            return DATADIR_DROP;
    return DATADIR_COPY;
}

/* The lost+found of a file system that is mounted as the data directory or as its pg_wal: the system's own,
 * which the server's user can neither read nor remove. */
static bool
is_lost_found(const char *path, bool is_dir)
{
    path += begins(path, "pg_wal/") ? strlen("pg_wal/") : 0;
    if (!begins(path, "lost+found"))
        return false;
    path += strlen("lost+found");
    return *path == '/' || (*path == '\0' && is_dir);
}

enum datadir_class
datadir_classify(const char *path, bool is_dir)
{
    if (is_lost_found(path, is_dir))
        return DATADIR_SKIP;
    const char *slash = strchr(path, '/');
    enum datadir_class top = slash ? classify_below_top(path, slash) : classify_top(path, is_dir);
    if (top != DATADIR_COPY)
        return top;
    const char *base = strrchr(path, '/');
    base = base ? base + 1 : path;
    /* Temporary files and relation caches are left out wherever they are: basebackup.c does so, too. */
    if (begins(base, "pgsql_tmp") || (!is_dir && begins(base, "pg_internal.init")))
        return DATADIR_DROP;
    if (strcmp(path, "global/pg_control") == 0)
        return DATADIR_CONTROL;
    struct relfile rel;
    if (is_dir || !relfile_parse(&rel, path))
        return DATADIR_COPY;
    return rel.temporary ? DATADIR_DROP : DATADIR_RELATION;
}

/* A decimal object id without leading zeros, as the server writes it; NULL when there is none. */
static const char *
scan_oid(uint32_t *out, const char *p)
{
    if (*p < '1' || *p > '9')
        return NULL;
    uint64_t v = 0;
    for (; *p >= '0' && *p <= '9'; p++)
        if ((v = v * 10 + (uint64_t)(*p - '0')) > UINT32_MAX)
            return NULL;
    *out = (uint32_t)v;
    return p;
}

/* Moves over "global/", "base/DB/" or "pg_tblspc/SPC/PG_VERSION/DB/"; NULL when it is none of them. */
static const char *
scan_place(struct relfile *out, const char *p)
{
    if (begins(p, "global/"))
        return p + strlen("global/");
    if (begins(p, "base/")) {
        p += strlen("base/");
    } else if (begins(p, "pg_tblspc/")) {
        p = scan_oid(&out->tablespace, p + strlen("pg_tblspc/"));
        if (!p || !begins(p, "/PG_"))
            return NULL;
        p = strchr(p + 1, '/');
        if (!p)
            return NULL;
        p++;
    } else {
        return NULL;
    }
    p = scan_oid(&out->database, p);
    return p && *p == '/' ? p + 1 : NULL;
}

static const char *
scan_fork(struct relfile *out, const char *p)
{
    static const struct {
        const char *suffix;
        char fork;
    } forks[] = {{"_fsm", 'f'}, {"_vm", 'v'}, {"_init", 'i'}};
    out->fork = 'm';
    for (size_t i = 0; i < COUNT(forks); i++) {
        if (begins(p, forks[i].suffix)) {
            out->fork = forks[i].fork;
            return p + strlen(forks[i].suffix);
        }
    }
    return p;
}

static bool
scan_name(struct relfile *out, const char *p)
{
    if (*p == 't') {
        out->temporary = true;
        p++;
        /* A backend's number can be 0. */
        size_t digits = strspn(p, "0123456789");
        if (digits == 0 || p[digits] != '_')
            return false;
        p += digits + 1;
    }
    p = scan_oid(&out->relation, p);
    if (!p)
        return false;
    p = scan_fork(out, p);
    if (*p == '.')
        p = scan_oid(&out->segment, p + 1);
    return p && *p == '\0';
}

bool
relfile_parse(struct relfile *out, const char *path)
{
    memset(out, 0, sizeof(*out));
    const char *name = scan_place(out, path);
    return name && scan_name(out, name);
}

static int
compare_names(const void *key, const void *element)
{
    return strcmp(key, *(const char *const *)element);
}

bool
datadir_unlogged(const char *path, const char *const *names, size_t count)
{
    struct relfile rel;
    if (!relfile_parse(&rel, path) || rel.fork == 'i' || rel.temporary)
        return false;
    char init[32];
    snprintf(init, sizeof(init), "%u_init", rel.relation);
    return count > 0 && bsearch(init, names, count, sizeof(*names), compare_names) != NULL;
}

mode_t
datadir_file_mode(const char *datadir)
{
    struct stat st;
    return stat(datadir, &st) == 0 && (st.st_mode & S_IRGRP) ? 0640 : 0600;
}
