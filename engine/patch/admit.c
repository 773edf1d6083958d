#include "admit.h"

#include "list.h"
#include "moonrise/base/err.h"
#include "moonrise/patch/patch.h"
#include "moonrise/pg/datadir.h"
#include "names.h"
#include "walk.h"

#include <stdlib.h>
#include <string.h>

static int
admit_refuse(const char *path, struct err *e)
{
    return err_set(e, ERR_FORMAT, "the source lists \"%s\" as no copy contains it", path);
}

/* At the top of a tablespace's directory there are only the folders of PostgreSQL's versions. */
static bool
admit_is_foreign(const struct patch_dir *d)
{
    if (d->root == 0 || *d->path == '\0')
        return false;
    size_t len = strcspn(d->path, "/");
    return d->path[len] == '\0' && !patch_is_version_dir(d->path);
}

static int
admit_dir(const struct patch_dir *d, const char *class_path, struct err *e)
{
    enum datadir_class wanted = d->kind == PATCH_DIR_EMPTY ? DATADIR_EMPTY_DIR : DATADIR_COPY;
    if (datadir_classify(class_path, true) != wanted || admit_is_foreign(d))
        return admit_refuse(class_path, e);
    return 0;
}

/* A link or a special file is not written, and is classified as the walk does it: as a directory. */
static int
admit_file(const struct patch_entry *entry, const char *class_name, struct err *e)
{
    bool other = entry->flags & PATCH_ENTRY_OTHER;
    enum datadir_class class = datadir_classify(class_name, other);
    if (class == DATADIR_COPY || class == (other ? DATADIR_CONTROL : DATADIR_RELATION))
        return 0;
    return admit_refuse(class_name, e);
}

/* A directory and its files. */
static int
admit_all_of(const struct patch_list *l, const struct patch_dir *d, const char *class_path,
             struct err *e)
{
    int rc = admit_dir(d, class_path, e);
    struct patch_entry entry;
    for (uint32_t at = d->first; rc == 0 && at < d->end; at = entry.next) {
        patch_list_entry(l, at, &entry);
        char *class_name = patch_join(class_path, entry.name);
        if (d->root > 0 && *d->path == '\0')
            rc = admit_refuse(class_name, e);
        else
            rc = admit_file(&entry, class_name, e);
        free(class_name);
    }
    return rc;
}

int
patch_admit(const struct patch_list *l, const struct patch_spec *spec, struct err *e)
{
    int rc = 0;
    for (uint32_t i = 0; rc == 0 && i < patch_list_dirs(l); i++) {
        const struct patch_dir *d = patch_list_dir_at(l, i);
        if (d->root > (uint32_t)spec->tablespace_count)
            return err_set(e, ERR_FORMAT, "the source lists a tablespace that nobody asked for");
        char *class_path = patch_class_path(spec, d->root, d->path);
        rc = admit_all_of(l, d, class_path, e);
        free(class_path);
    }
    return rc;
}
