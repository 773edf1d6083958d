#include "holder.h"

#include "moonrise/base/core.h"
#include "moonrise/base/io.h"
#include "moonrise/base/str.h"
#include "process.h"

#include <dirent.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define LOCKS_MAX (16 << 20)

int
holder_of(const char *path)
{
    struct str text = STR_INIT;
    struct stat st;
    int holder = 0;
    if (stat(path, &st) == 0 && io_read_file(&text, "/proc/locks", LOCKS_MAX, NULL) == 0) {
        char *next = NULL;
        for (char *line = strtok_r(text.data, "\n", &next); line && !holder;
             line = strtok_r(NULL, "\n", &next)) {
            int pid;
            unsigned major_no, minor_no;
            uint64_t inode;
            /* Whoever waits stands behind an arrow, and is not matched. */
            if (sscanf(line, "%*d: FLOCK %*s %*s %d %x:%x:%" SCNu64, &pid, &major_no, &minor_no,
                       &inode) == 4 &&
                inode == st.st_ino && makedev(major_no, minor_no) == st.st_dev && pid > 0)
                holder = pid;
        }
    }
    str_free(&text);
    return holder;
}

/* Whether the process has this very file open. */
static bool
has_open(int pid, const char *path)
{
    char dir_name[64];
    struct stat want, st;
    snprintf(dir_name, sizeof dir_name, "/proc/%d/fd", pid);
    DIR *dir = stat(path, &want) == 0 ? opendir(dir_name) : NULL;
    bool found = false;
    struct dirent *entry;
    while (dir && !found && (entry = readdir(dir)) != NULL) {
        if (fstatat(dirfd(dir), entry->d_name, &st, 0) == 0)
            found = st.st_dev == want.st_dev && st.st_ino == want.st_ino;
    }
    if (dir)
        closedir(dir);
    return found;
}

static char *
exe_of(int pid)
{
    char path[64], buf[4096];
    snprintf(path, sizeof path, "/proc/%d/exe", pid);
    ssize_t n = readlink(path, buf, sizeof buf - 1);
    buf[n < 0 ? 0 : n] = '\0';
    char *deleted = strstr(buf, " (deleted)");
    if (deleted)
        *deleted = '\0'; /* an agent of before an upgrade */
    return mem_strdup(buf);
}

bool
holder_end(int pid, uint64_t start, const char *path)
{
    char *own = exe_of(getpid()), *theirs = exe_of(pid);
    bool proven = own[0] && strcmp(own, theirs) == 0 && has_open(pid, path);
    free(own);
    free(theirs);
    return proven && process_signal(pid, start, SIGKILL);
}

bool
holder_end_stopped(const char *path)
{
    int pid = holder_of(path);
    uint64_t start;
    return pid > 0 && pid != getpid() && process_stopped(pid, &start) &&
           holder_end(pid, start, path);
}
