#include "io.h"
#include "list.h"
#include "moonrise/base/err.h"
#include "moonrise/base/str.h"
#include "moonrise/patch/patch.h"
#include "moonrise/pg/control.h"
#include "names.h"
#include "walk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct source_local {
    struct patch_source base; /* first: the interface is a pointer to it */
    const struct patch_spec *spec;
    int *roots;
};

struct source_file {
    struct patch_io io;
    char *path; /* for messages */
};

static int
local_list(struct patch_source *s, struct patch_list *l, struct err *e)
{
    const struct source_local *local = (const struct source_local *)s;
    int rc = patch_walk(l, local->spec, local->roots, e);
    return rc ? err_wrap(e, "listing %s", local->spec->source_dir) : 0;
}

static const char *
local_root(const struct source_local *local, uint32_t root)
{
    return root == 0 ? local->spec->source_dir : local->spec->tablespaces[root - 1].source;
}

/* No link is followed on the way: what is asked for from another host leads nowhere else. */
static int
open_below(struct patch_io *io, int root, const struct patch_name *name, struct err *e)
{
    int dir = patch_open_below(root, name->dir, false);
    if (dir < 0 && (errno == ENOTDIR || errno == ELOOP))
        return err_set(e, ERR_NOTFOUND, "no directory");
    if (dir < 0)
        return err_sys(e, errno, "cannot open its directory");
    int rc = patch_io_open_source(io, dir, name->name, e);
    close(dir);
    return rc;
}

static int
local_open(struct patch_source *s, void **file, const struct patch_name *name, struct err *e)
{
    const struct source_local *local = (const struct source_local *)s;
    struct source_file *f = mem_zalloc(sizeof(*f));
    char *below = patch_join(name->dir, name->name);
    patch_io_init(&f->io);
    f->path = mem_printf("%s/%s", local_root(local, name->root), below);
    free(below);
    int rc = open_below(&f->io, local->roots[name->root], name, e);
    if (rc) {
        err_wrap(e, "%s", f->path);
        patch_io_close(&f->io);
        free(f->path);
        free(f);
        return rc;
    }
    *file = f;
    return 0;
}

/* The files are near: the one question that is open is worked on when its answer is wanted. */
static int
local_connect(struct patch_source *s, void **stream, uint32_t *window,
              const struct patch_link *link, struct err *e)
{
    (void)s;
    (void)link;
    (void)e;
    *window = 1;
    *stream = mem_zalloc(sizeof(struct patch_ask));
    return 0;
}

static int
local_ask(void *stream, const struct patch_ask *ask, struct err *e)
{
    (void)e;
    *(struct patch_ask *)stream = *ask;
    return 0;
}

static int
local_answer(void *stream, struct patch_answer *answer, struct err *e)
{
    const struct patch_ask *ask = stream;
    struct source_file *f = ask->file;
    struct patch_piece piece = {answer->data, ask->bytes, ask->offset};
    int rc = patch_io_read(&f->io, &piece, &answer->bytes, e);
    if (rc)
        return err_wrap(e, "%s", f->path);
    patch_answer_compare(answer, ask);
    return 0;
}

static void
local_disconnect(void *stream)
{
    free(stream);
}

static void
local_close(struct patch_source *s, void *file)
{
    (void)s;
    struct source_file *f = file;
    patch_io_close(&f->io);
    free(f->path);
    free(f);
}

static int
local_control(struct patch_source *s, void *image, struct err *e)
{
    const struct source_local *local = (const struct source_local *)s;
    char *path = mem_printf("%s/global/pg_control", local->spec->source_dir);
    struct control control;
    int rc = control_read(&control, path, image, e);
    free(path);
    return rc;
}

static void
local_free(struct patch_source *s)
{
    struct source_local *local = (struct source_local *)s;
    for (int i = 0; i <= local->spec->tablespace_count; i++)
        if (local->roots[i] >= 0)
            close(local->roots[i]);
    free(local->roots);
    free(local);
}

/* Opens tablespace i, unless the source has no link to it: it was dropped meanwhile, or its directory is
 * one of pg_tblspc's own and walked there. */
static int
local_open_tablespace(struct source_local *local, int i, struct err *e)
{
    const struct patch_tablespace *ts = &local->spec->tablespaces[i];
    struct stat st;
    char *link = mem_printf("pg_tblspc/%s", ts->oid);
    int there = fstatat(local->roots[0], link, &st, AT_SYMLINK_NOFOLLOW);
    free(link);
    if (there != 0 || !S_ISLNK(st.st_mode))
        return 0;
    local->roots[i + 1] = open(ts->source, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (local->roots[i + 1] < 0)
        return err_sys(e, errno, "cannot open tablespace %s of the source in %s", ts->oid,
                       ts->source);
    return 0;
}

int
patch_source_local(struct patch_source **out, const struct patch_spec *spec, struct err *e)
{
    struct source_local *local = mem_zalloc(sizeof(*local));
    local->base = (struct patch_source){.list = local_list,
                                        .connect = local_connect,
                                        .open = local_open,
                                        .ask = local_ask,
                                        .answer = local_answer,
                                        .close = local_close,
                                        .disconnect = local_disconnect,
                                        .control = local_control,
                                        .free = local_free};
    local->spec = spec;
    local->roots = mem_alloc(((size_t)spec->tablespace_count + 1) * sizeof(*local->roots));
    for (int i = 0; i <= spec->tablespace_count; i++)
        local->roots[i] = -1;
    int rc = 0;
    local->roots[0] = open(spec->source_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (local->roots[0] < 0)
        rc = err_sys(e, errno, "cannot open the source directory %s", spec->source_dir);
    for (int i = 0; rc == 0 && i < spec->tablespace_count; i++)
        rc = local_open_tablespace(local, i, e);
    if (rc) {
        local_free(&local->base);
        return rc;
    }
    *out = &local->base;
    return 0;
}
