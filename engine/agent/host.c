/*
 * What an instance needs of its host besides its directory: PostgreSQL's programs, the password of role
 * moonrise, and the description by which tools find the cluster.
 */
#include "moonrise/base/err.h"
#include "moonrise/base/io.h"
#include "moonrise/base/path.h"
#include "moonrise/base/str.h"
#include "moonrise/loop/loop.h"
#include "order.h"
#include "spawn.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PROGRAM_MS  10000
#define SECRET_NAME "/passfile"

static int
absolute(const char **out, const struct order *o, const char *key, struct err *e)
{
    int rc = message_need_text(o->args, key, out, e);
    if (rc == 0 && ((*out)[0] != '/' || strchr(*out, '\n')))
        rc = err_set(e, ERR_ARGUMENT, "%s is no absolute path", key);
    return rc;
}

int
op_programs(struct order *o, struct err *e)
{
    static const char *const needed[] = {"initdb", "pg_ctl", "postgres"};
    struct str output = STR_INIT;
    const char *bin;
    char *program = NULL;
    int rc = absolute(&bin, o, "bin", e);
    for (size_t i = 0; rc == 0 && i < sizeof needed / sizeof *needed; i++) {
        free(program);
        program = path_join(bin, needed[i]);
        if (access(program, X_OK) != 0)
            rc = err_sys(e, errno, "cannot run %s", program);
    }
    if (rc == 0) {
        const char *const argv[] = {program, "--version", NULL};
        struct spawn s = {.argv = argv,
                          .cwd = "/",
                          .deadline_ms = clock_ms() + PROGRAM_MS,
                          .cancel = o->call->cancel};
        rc = spawn_run(&output, &s, e);
    }
    if (rc == 0) {
        output.data[strcspn(output.data, "\n")] = '\0';
        message_set_text(o->result, "version", output.data);
    }
    str_free(&output);
    free(program);
    return rc;
}

/* The directory is nobody else's business: it is made for the user alone. */
int
op_passfile(struct order *o, struct err *e)
{
    const char *path, *text;
    int rc = absolute(&path, o, "path", e);
    if (rc == 0)
        rc = message_need_text(o->args, "text", &text, e);
    size_t len = rc == 0 ? strlen(path) : 0;
    if (rc == 0 &&
        (len <= strlen(SECRET_NAME) || strcmp(path + len - strlen(SECRET_NAME), SECRET_NAME) != 0))
        rc = err_set(e, ERR_ARGUMENT, "path is not that of a passfile");
    if (rc < 0)
        return rc;
    char *dir = mem_strdup(path);
    dir[len - strlen(SECRET_NAME)] = '\0';
    rc = io_make_dirs(dir, 0700, e);
    free(dir);
    if (rc == 0)
        rc = io_write_durable(path, text, strlen(text), 0600, e);
    return rc;
}

/* As its server would: who may read the directory for a backup reads every file. */
int
op_describe(struct order *o, struct err *e)
{
    const char *text;
    struct stat st;
    int rc = message_need_text(o->args, "text", &text, e);
    if (rc == 0 && stat(o->datadir, &st) != 0)
        rc = err_sys(e, errno, "%s", o->datadir);
    if (rc < 0)
        return rc;
    char *path = order_path(o, "moonrise.json");
    rc = io_write_durable(path, text, strlen(text), st.st_mode & 0040 ? 0640 : 0600, e);
    free(path);
    return rc;
}
