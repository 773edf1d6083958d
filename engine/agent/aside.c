#include "aside.h"

#include "moonrise/base/err.h"
#include "moonrise/base/io.h"
#include "moonrise/base/path.h"
#include "process.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HEADER_BYTES 512

static const char header_text[] = "moonrise: this is the pg_control of this data directory, moved "
                                  "aside. The instance was replaced, or\n"
                                  "is half recovered, and must not be started: it would serve rows "
                                  "that nobody else has. Bring it back\n"
                                  "with `moonrise recoverseg`.\n";

struct paths {
    char *dir;     /* global */
    char *control; /* global/pg_control */
    char *moving;  /* moonrise.control.moving */
    char *aside;   /* moonrise.control */
};

static void
paths_init(struct paths *p, const char *datadir)
{
    p->dir = path_join(datadir, "global");
    p->control = path_join(datadir, "global/pg_control");
    p->moving = path_join(datadir, "moonrise.control.moving");
    p->aside = path_join(datadir, "moonrise.control");
}

static void
paths_done(struct paths *p)
{
    free(p->dir);
    free(p->control);
    free(p->moving);
    free(p->aside);
}

/* Flushes the directories on both sides of a rename. */
static int
flush_both(const struct paths *p, const char *datadir, struct err *e)
{
    int rc = io_fsync_dir(p->dir, e);
    return rc < 0 ? rc : io_fsync_dir(datadir, e);
}

/* From moonrise.control.moving to moonrise.control, behind the header. */
static int
mangle(const struct paths *p, struct err *e)
{
    struct str image = STR_INIT, out = STR_INIT;
    char header[HEADER_BYTES] = {0};
    memcpy(header, header_text, sizeof header_text - 1);
    int rc = io_read_file(&image, p->moving, 1 << 20, e);
    if (rc == 0) {
        str_append(&out, header, sizeof header);
        str_append(&out, image.data, image.len);
        rc = io_write_durable(p->aside, out.data, out.len, 0600, e);
    }
    if (rc == 0)
        rc = io_unlink_durable(p->moving, e);
    str_free(&image);
    str_free(&out);
    return rc;
}

/* The rename, the second proof, and the way back when it fails. A server that has been started meanwhile
 * panics at its next write of the file, so between the two renames nothing is flushed. */
static int
take(const struct paths *p, const char *datadir, struct err *e)
{
    if (rename(p->control, p->moving) != 0)
        return err_sys(e, errno, "cannot move %s aside", p->control);
    int rc = process_prove_stopped(datadir, e);
    if (rc == 0)
        return flush_both(p, datadir, e);
    if (rename(p->moving, p->control) != 0)
        err_wrap(e, "cannot put %s back (errno %d)", p->control, errno);
    return err_wrap(e, "somebody has started it meanwhile");
}

int
aside_move(const char *datadir, struct err *e)
{
    struct paths p;
    int rc = 0;
    paths_init(&p, datadir);
    if (access(p.control, F_OK) == 0)
        rc = take(&p, datadir, e);
    if (rc == 0 && access(p.moving, F_OK) == 0)
        rc = mangle(&p, e);
    paths_done(&p);
    return rc;
}

/* The image that lies aside, in either of its two forms. */
static int
aside_image(struct str *image, const struct paths *p, struct err *e)
{
    int rc = io_read_file(image, p->moving, 1 << 20, e);
    if (rc != ERR_NOTFOUND)
        return rc;
    struct str text = STR_INIT;
    rc = io_read_file(&text, p->aside, 1 << 20, e);
    if (rc == 0 && (text.len < HEADER_BYTES + CONTROL_FILE_BYTES ||
                    memcmp(text.data, header_text, sizeof header_text - 1) != 0))
        rc = err_set(e, ERR_FORMAT, "%s is damaged", p->aside);
    if (rc == 0)
        str_append(image, text.data + HEADER_BYTES, text.len - HEADER_BYTES);
    str_free(&text);
    return rc;
}

int
aside_read(struct control *out, bool *aside, const char *datadir, struct err *e)
{
    struct paths p;
    paths_init(&p, datadir);
    *aside = false;
    int rc = control_read(out, p.control, NULL, e);
    if (rc == ERR_NOTFOUND) {
        struct str image = STR_INIT;
        rc = aside_image(&image, &p, e);
        *aside = rc == 0;
        if (rc == 0)
            rc = control_parse(out, image.data, image.len, e);
        str_free(&image);
    }
    paths_done(&p);
    return rc;
}

int
aside_restore(const char *datadir, struct err *e)
{
    struct paths p;
    struct str image = STR_INIT;
    paths_init(&p, datadir);
    int rc = 0;
    if (access(p.control, F_OK) != 0) {
        rc = aside_image(&image, &p, e);
        if (rc == 0)
            rc = io_write_durable(p.control, image.data, image.len, 0600, e);
        if (rc == ERR_NOTFOUND)
            rc = 0;
    }
    paths_done(&p);
    str_free(&image);
    return rc < 0 ? rc : aside_drop(datadir, e);
}

int
aside_drop(const char *datadir, struct err *e)
{
    struct paths p;
    paths_init(&p, datadir);
    int rc = 0;
    if (access(p.control, F_OK) == 0) {
        const char *names[] = {p.moving, p.aside};
        for (int i = 0; rc == 0 && i < 2; i++) {
            rc = io_unlink_durable(names[i], e);
            rc = rc == ERR_NOTFOUND ? 0 : rc;
        }
    }
    paths_done(&p);
    return rc;
}
