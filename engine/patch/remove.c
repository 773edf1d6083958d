#include "moonrise/base/err.h"
#include "moonrise/patch/patch.h"
#include "moonrise/pg/datadir.h"
#include "names.h"
#include "target.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* Removes what the directory behind `fd` holds; it stays open. */
static int
remove_inside(int fd, const char *path, struct patch_progress *p, struct err *e)
{
    struct patch_names names = {.count = 0};
    int rc = patch_names_read(&names, fd, e);
    for (uint32_t i = 0; rc == 0 && i < names.count; i++) {
        char *below = patch_join(path, patch_names_at(&names, i));
        rc = patch_remove(fd, patch_names_at(&names, i), below, p, e);
        free(below);
    }
    patch_names_free(&names);
    return rc;
}

static int
remove_dir(int fd, const char *name, const char *path, struct patch_progress *p, struct err *e)
{
    int dir = openat(fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (dir < 0)
        return err_sys(e, errno, "cannot open the directory %s", path);
    int rc = remove_inside(dir, path, p, e);
    close(dir);
    if (rc)
        return rc;
    /* Not empty: it holds something of the instance's own. */
    if (unlinkat(fd, name, AT_REMOVEDIR) != 0 && errno != ENOENT && errno != ENOTEMPTY &&
        errno != EEXIST)
        return err_sys(e, errno, "cannot remove the directory %s", path);
    return 0;
}

int
patch_remove(int fd, const char *name, const char *path, struct patch_progress *p, struct err *e)
{
    struct stat st;
    if (fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return errno == ENOENT ? 0 : err_sys(e, errno, "cannot look at %s", path);
    enum datadir_class class = datadir_classify(path, S_ISDIR(st.st_mode));
    if (class == DATADIR_SKIP || class == DATADIR_CONTROL)
        return 0;
    if (S_ISDIR(st.st_mode))
        return remove_dir(fd, name, path, p, e);
    if (unlinkat(fd, name, 0) != 0 && errno != ENOENT)
        return err_sys(e, errno, "cannot remove %s", path);
    if (p)
        atomic_fetch_add_explicit(&p->files_deleted, 1, memory_order_relaxed);
    return 0;
}
