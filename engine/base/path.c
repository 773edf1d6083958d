#include "moonrise/base/path.h"

#include "moonrise/base/err.h"
#include "moonrise/base/str.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

char *
path_join(const char *dir, const char *name)
{
    if (name[0] == '/' || dir[0] == '\0')
        return mem_strdup(name);
    size_t len = strlen(dir);
    while (len > 0 && dir[len - 1] == '/')
        len--;
    return mem_printf("%.*s/%s", (int)len, dir, name);
}

char *
path_dir(const char *path)
{
    size_t len = strlen(path);
    while (len > 1 && path[len - 1] == '/')
        len--;
    while (len > 0 && path[len - 1] != '/')
        len--;
    if (len == 0)
        return mem_strdup(".");
    while (len > 1 && path[len - 1] == '/')
        len--;
    return mem_printf("%.*s", (int)len, path);
}

const char *
path_base(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

int
path_canonical(char **out, const char *path, struct err *e)
{
    *out = realpath(path, NULL);
    if (!*out)
        return err_sys(e, errno, "%s", path);
    return 0;
}

bool
path_is_plain(const char *path)
{
    if (path[0] != '/')
        return false;
    if (path[1] == '\0')
        return true;
    for (const char *at = path; *at;) {
        size_t len = strcspn(++at, "/");
        if (len == 0 || (len == 1 && at[0] == '.') || (len == 2 && at[0] == '.' && at[1] == '.'))
            return false;
        at += len;
    }
    return true;
}

bool
path_leads_to(const char *path, const char *real)
{
    char *own;
    bool same = path_canonical(&own, path, NULL) == 0 && strcmp(own, real) == 0;
    free(own);
    return same;
}

bool
path_inside(const char *dir, const char *path)
{
    size_t len = strlen(dir);
    while (len > 0 && dir[len - 1] == '/')
        len--;
    return strncmp(dir, path, len) == 0 && (path[len] == '\0' || path[len] == '/');
}
