#include "process.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"
#include "moonrise/loop/loop.h"
#include "moonrise/pg/pidfile.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/pidfd.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <unistd.h>

/* What makes a process one of this directory's. */
struct usage {
    dev_t dev;
    ino_t ino;
    uid_t uid;
    int postmaster_pid; /* as postmaster.pid says, 0 when there is none */
    uint64_t shm_id;
    uint32_t shm_key;  /* 0: no segment is named */
    uint64_t attached; /* how many of those found so far map it */
};

/* Reads a whole file of /proc/PID; false when it is gone or not ours to see. */
static bool
proc_read(struct str *out, int pid, const char *name)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    char buf[4096];
    ssize_t n;
    while ((n = read(fd, buf, sizeof buf)) > 0)
        str_append(out, buf, (size_t)n);
    close(fd);
    return n == 0;
}

static char *
proc_link(int pid, const char *name)
{
    char path[64], buf[4096];
    snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
    ssize_t n = readlink(path, buf, sizeof buf - 1);
    if (n < 0)
        return mem_strdup("");
    buf[n] = '\0';
    return mem_strdup(buf);
}

/* State, start time and processor time of /proc/PID/stat. The command in it may hold anything, also
 * parentheses, so fields are counted from the last one. */
static bool
proc_stat(int pid, struct process *p)
{
    struct str text = STR_INIT;
    bool ok = proc_read(&text, pid, "stat");
    char *at = ok ? strrchr(text.data, ')') : NULL;
    uint64_t field[23] = {0};
    ok = at && at[1] == ' ' && at[2];
    if (ok) {
        p->state = at[2];
        at += 3;
        for (int i = 4; i <= 22; i++)
            field[i] = strtoull(at, &at, 10);
        p->pid = pid;
        p->ticks = field[14] + field[15];
        p->start = field[22];
    }
    str_free(&text);
    return ok;
}

static bool
is_gone(char state)
{
    return state == 'Z' || state == 'X' || state == 'x';
}

static bool
is_postgres(const char *exe)
{
    static const char deleted[] = " (deleted)";
    const char *name = strrchr(exe, '/');
    name = name ? name + 1 : exe;
    size_t len = strlen(name);
    if (len > sizeof deleted - 1 && strcmp(name + len - (sizeof deleted - 1), deleted) == 0)
        len -= sizeof deleted - 1;
    return len == 8 && memcmp(name, "postgres", 8) == 0;
}

/* Whether the address space holds the segment: "ADDR PERMS OFFSET DEV INODE   /SYSV0052e2c1 (deleted)". */
static bool
maps_segment(int pid, const struct usage *u)
{
    struct str maps = STR_INIT;
    bool found = false;
    proc_read(&maps, pid, "maps");
    for (char *at = maps.data; !found && (at = strstr(at, "/SYSV")) != NULL; at += 5) {
        char *line = at;
        while (line > maps.data && line[-1] != '\n')
            line--;
        uint64_t inode = 0;
        if (sscanf(line, "%*s %*s %*s %*s %" SCNu64, &inode) == 1)
            found = inode == u->shm_id && strtoul(at + 5, NULL, 16) == u->shm_key;
    }
    str_free(&maps);
    return found;
}

static bool
works_in(int pid, const struct usage *u)
{
    char path[64];
    struct stat st;
    snprintf(path, sizeof path, "/proc/%d/cwd", pid);
    return stat(path, &st) == 0 && st.st_dev == u->dev && st.st_ino == u->ino;
}

static char *
proc_title(int pid)
{
    struct str text = STR_INIT;
    proc_read(&text, pid, "cmdline");
    while (text.len > 0 && (text.data[text.len - 1] == '\0' || text.data[text.len - 1] == ' '))
        text.data[--text.len] = '\0';
    for (size_t i = 0; i < text.len; i++) {
        if (!isprint((unsigned char)text.data[i]))
            text.data[i] = ' ';
    }
    return str_take(&text);
}

static void
list_add(struct process_list *list, const struct process *p)
{
    list->items = mem_realloc(list->items, (list->count + 1) * sizeof *list->items);
    list->items[list->count++] = *p;
}

static bool
list_names(const struct process_list *list, int pid)
{
    for (size_t i = 0; i < list->count; i++) {
        if (list->items[i].pid == pid)
            return true;
    }
    return false;
}

/* How many processes map the segment, as the kernel counts; UINT64_MAX when it does not say. */
static uint64_t
segment_users(const struct usage *u)
{
    struct shmid_ds ds;
    if (u->shm_key == 0)
        return 0;
    if (shmctl((int)u->shm_id, IPC_STAT, &ds) < 0)
        return errno == EINVAL || errno == EIDRM ? 0 : UINT64_MAX;
    /* One that was removed while it was mapped lives on without its key. */
    bool same = (uint32_t)ds.shm_perm.__key == u->shm_key || (ds.shm_perm.mode & SHM_DEST);
    return same ? ds.shm_nattch : 0;
}

/* Looks at one process and adds it if it uses the directory: works in it, or, in the second pass, maps
 * its segment from anywhere. */
static void
look_at(struct process_list *out, int pid, struct usage *u, bool second)
{
    char path[64];
    struct stat st;
    struct process p = {0};
    snprintf(path, sizeof path, "/proc/%d", pid);
    /* The directory is its owner's alone, so nobody else's process can be a server in it. */
    if (stat(path, &st) != 0 || st.st_uid != u->uid || pid == getpid() ||
        (second && list_names(out, pid)))
        return;
    if (!proc_stat(pid, &p) || is_gone(p.state))
        return;
    p.exe = proc_link(pid, "exe");
    bool uses = second ? maps_segment(pid, u) : is_postgres(p.exe) && works_in(pid, u);
    if (uses && u->shm_key && (second || maps_segment(pid, u)))
        u->attached++;
    if (!uses) {
        free(p.exe);
        return;
    }
    p.title = proc_title(pid);
    p.postmaster = pid == u->postmaster_pid;
    list_add(out, &p);
}

static int
usage_of(struct usage *u, const char *datadir, struct err *e)
{
    struct stat st;
    *u = (struct usage){0};
    if (stat(datadir, &st) != 0)
        return err_sys(e, errno, "%s", datadir);
    u->dev = st.st_dev;
    u->ino = st.st_ino;
    u->uid = st.st_uid;
    struct pidfile pf;
    int rc = pidfile_read(&pf, datadir, e);
    if (rc == ERR_NOTFOUND || rc == ERR_FORMAT)
        return 0; /* an empty or half written one names nobody */
    if (rc < 0)
        return rc;
    u->postmaster_pid = pf.pid > 0 ? pf.pid : 0;
    u->shm_key = (uint32_t)pf.shmem_key;
    u->shm_id = pf.shmem_id;
    pidfile_done(&pf);
    return 0;
}

static int
scan_pass(struct process_list *out, struct usage *u, bool second, struct err *e)
{
    DIR *dir = opendir("/proc");
    if (!dir)
        return err_sys(e, errno, "/proc");
    struct dirent *entry;
    while ((entry = readdir(dir)) != NULL) {
        if (isdigit((unsigned char)entry->d_name[0]))
            look_at(out, atoi(entry->d_name), u, second);
    }
    closedir(dir);
    return 0;
}

/* Reading what a process maps costs half a millisecond, so those that work elsewhere are only asked when
 * the kernel counts more users of the segment than were found. */
int
process_scan(struct process_list *out, const char *datadir, struct err *e)
{
    struct usage u;
    *out = (struct process_list)PROCESS_LIST_INIT;
    int rc = usage_of(&u, datadir, e);
    if (rc == ERR_NOTFOUND)
        return 0;
    if (rc < 0)
        return rc;
    if (u.uid != geteuid() && geteuid() != 0) {
        err_set(e, ERR_PERMISSION, "%s belongs to user id %u, the agent runs as %u", datadir,
                (unsigned)u.uid, (unsigned)geteuid());
        err_hint(e, "start the agent as the owner of the data directory");
        return ERR_PERMISSION;
    }
    rc = scan_pass(out, &u, false, e);
    if (rc == 0 && segment_users(&u) > u.attached)
        rc = scan_pass(out, &u, true, e);
    return rc;
}

static int
err_running(struct err *e, const char *datadir, const struct process_list *list)
{
    const struct process *p = process_postmaster(list);
    if (!p)
        p = &list->items[0];
    return err_set(e, ERR_RUNNING, "%s is used by %zu process%s: %d (%.80s)", datadir, list->count,
                   list->count == 1 ? "" : "es", p->pid, p->title);
}

int
process_prove_stopped(const char *datadir, struct err *e)
{
    for (int pass = 0; pass < 2; pass++) {
        struct process_list list;
        int rc = process_scan(&list, datadir, e);
        if (rc == 0 && list.count > 0)
            rc = err_running(e, datadir, &list);
        process_list_done(&list);
        if (rc < 0)
            return rc;
    }
    return 0;
}

const struct process *
process_postmaster(const struct process_list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        if (list->items[i].postmaster)
            return &list->items[i];
    }
    return NULL;
}

bool
process_alive(int pid, uint64_t start)
{
    struct process p = {0};
    return proc_stat(pid, &p) && !is_gone(p.state) && (start == 0 || p.start == start);
}

uint64_t
process_start(int pid)
{
    struct process p = {0};
    return proc_stat(pid, &p) && !is_gone(p.state) ? p.start : 0;
}

bool
process_stopped(int pid, uint64_t *start)
{
    struct process p = {0};
    bool stopped = proc_stat(pid, &p) && (p.state == 'T' || p.state == 't');
    *start = p.start;
    return stopped;
}

bool
process_signal(int pid, uint64_t start, int signum)
{
    int fd = pidfd_open(pid, 0);
    if (fd < 0)
        return false;
    /* Compared after the descriptor was had: it holds on to whoever that was. */
    bool sent = process_start(pid) == start && pidfd_send_signal(fd, signum, NULL, 0) == 0;
    close(fd);
    return sent;
}

static bool
list_has(const struct process_list *list, const struct process *p)
{
    for (size_t i = 0; i < list->count; i++) {
        if (list->items[i].pid == p->pid && list->items[i].start == p->start)
            return true;
    }
    return false;
}

static void
kill_pass(const struct process_list *list, struct process_list *killed)
{
    for (int round = 0; round < 2; round++) {
        for (size_t i = 0; i < list->count; i++) {
            const struct process *p = &list->items[i];
            if (p->postmaster != (round == 0))
                continue; /* first the postmaster, so that nobody is forked any more */
            if (process_signal(p->pid, p->start, SIGKILL) && killed && !list_has(killed, p)) {
                struct process copy = *p;
                copy.exe = mem_strdup(p->exe);
                copy.title = mem_strdup(p->title);
                list_add(killed, &copy);
            }
        }
    }
}

/* Waits up to wait_ms for each of the list to end. */
static void
await_end(const struct process_list *list, int64_t wait_ms)
{
    int64_t until = clock_ms() + wait_ms;
    for (size_t i = 0; i < list->count; i++) {
        int fd = pidfd_open(list->items[i].pid, 0);
        if (fd < 0)
            continue;
        int64_t left = until - clock_ms();
        struct pollfd pf = {.fd = fd, .events = POLLIN};
        if (left > 0 && process_start(list->items[i].pid) == list->items[i].start)
            poll(&pf, 1, (int)left);
        close(fd);
    }
}

int
process_kill_all(const char *datadir, struct process_list *killed, int64_t deadline_ms,
                 struct err *e)
{
    for (int quiet = 0; quiet < 2;) {
        struct process_list list;
        int rc = process_scan(&list, datadir, e);
        if (rc == 0 && list.count > 0) {
            quiet = 0;
            kill_pass(&list, killed);
            await_end(&list, 200);
            if (clock_ms() > deadline_ms)
                rc = err_running(e, datadir, &list);
        } else {
            quiet++;
        }
        process_list_done(&list);
        if (rc < 0)
            return rc;
    }
    return 0;
}

int
process_signal_postmaster(const char *datadir, int signum, int *pid, struct err *e)
{
    struct process_list list;
    int rc = process_scan(&list, datadir, e);
    if (rc < 0)
        return rc;
    const struct process *p = process_postmaster(&list);
    *pid = p ? p->pid : 0;
    if (!p || !process_signal(p->pid, p->start, signum))
        rc = err_set(e, ERR_NOTFOUND, "%s has no running postmaster", datadir);
    process_list_done(&list);
    return rc;
}

void
process_list_done(struct process_list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        free(list->items[i].exe);
        free(list->items[i].title);
    }
    free(list->items);
    *list = (struct process_list)PROCESS_LIST_INIT;
}
