#include "tree.h"

#include "moonrise/base/err.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEPTH_MAX 32

static bool
is_kept(const char *name, const char *const *keep)
{
    if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        return true;
    for (; keep && *keep; keep++) {
        if (strcmp(name, *keep) == 0)
            return true;
    }
    return false;
}

/* Empties the directory of descriptor `fd`, which it closes. */
static int
empty_fd(int fd, const char *const *keep, int depth, struct err *e)
{
    DIR *dir = fdopendir(fd);
    struct dirent *entry;
    int rc = 0;
    if (!dir) {
        close(fd);
        return err_sys(e, errno, "reading a directory");
    }
    while (rc == 0 && (entry = readdir(dir)) != NULL) {
        const char *name = entry->d_name;
        if (is_kept(name, keep))
            continue;
        if (unlinkat(fd, name, 0) == 0 || errno == ENOENT)
            continue;
        int sub = errno == EISDIR || errno == EPERM
                      ? openat(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
                      : -1;
        if (sub < 0 || depth > DEPTH_MAX)
            rc = err_sys(e, errno, "cannot remove %s", name);
        else
            rc = empty_fd(sub, NULL, depth + 1, e);
        if (rc == 0 && unlinkat(fd, name, AT_REMOVEDIR) != 0 && errno != ENOENT)
            rc = err_sys(e, errno, "cannot remove %s", name);
    }
    closedir(dir);
    return rc;
}

int
tree_empty(const char *dir, const char *const *keep, struct err *e)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return err_sys(e, errno, "%s", dir);
    int rc = empty_fd(fd, keep, 0, e);
    return rc < 0 ? err_wrap(e, "%s", dir) : 0;
}

int
tree_remove(const char *dir, struct err *e)
{
    struct stat st;
    if (lstat(dir, &st) == 0 && S_ISLNK(st.st_mode))
        return unlink(dir) == 0 ? 0 : err_sys(e, errno, "cannot remove %s", dir);
    int rc = tree_empty(dir, NULL, e);
    if (rc == 0 && rmdir(dir) != 0 && errno != ENOENT)
        rc = err_sys(e, errno, "cannot remove %s", dir);
    return rc == ERR_NOTFOUND ? 0 : rc;
}
