/*
 * initdb: a new data directory, configured and left stopped.
 *
 * Everything is made in DATADIR/moonrise.init, on the same file system, and moved up at the end, the
 * directory with pg_control last: until then the instance cannot be started, and a repeat begins anew.
 */
#include "inspect.h"
#include "moonrise/base/err.h"
#include "moonrise/base/io.h"
#include "moonrise/base/path.h"
#include "moonrise/base/str.h"
#include "moonrise/loop/loop.h"
#include "order.h"
#include "process.h"
#include "settings.h"
#include "spawn.h"
#include "tree.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int
run(const struct order *o, const char *const *argv, const struct str *input, struct err *e)
{
    struct str output = STR_INIT;
    struct spawn s = {.argv = argv,
                      .cwd = o->datadir,
                      .input = input ? input->data : NULL,
                      .input_bytes = input ? input->len : 0,
                      .deadline_ms = order_deadline(o, "wait_ms", 120000),
                      .cancel = o->call->cancel};
    int rc = spawn_run(&output, &s, e);
    str_free(&output);
    return rc;
}

static int
run_initdb(const struct order *o, const char *dir, struct err *e)
{
    const char *locale = message_text(o->args, "locale", NULL);
    char *program = path_join(o->bin, "initdb");
    char *where = mem_printf("--pgdata=%s", dir);
    char *user = mem_printf("--username=%s", message_text(o->args, "superuser", "postgres"));
    char *encoding = mem_printf("--encoding=%s", message_text(o->args, "encoding", "UTF8"));
    char *place = locale ? mem_printf("--locale=%s", locale) : mem_strdup("--no-locale");
    const char *const argv[] = {program,
                                where,
                                user,
                                encoding,
                                place,
                                "--data-checksums",
                                "--auth-local=peer",
                                "--auth-host=reject",
                                NULL};
    int rc = run(o, argv, NULL, e);
    free(program);
    free(where);
    free(user);
    free(encoding);
    free(place);
    return rc;
}

/* Runs the texts of args[key] in a standalone backend; with -j a statement ends with a semicolon and an
 * empty line. They hold the secret of a password: whatever the settings say, none of them is logged. */
static int
run_sql(const struct order *o, const char *dir, const char *key, const char *dbname, struct err *e)
{
    struct str input = STR_INIT;
    for (size_t i = 0; i < message_count(o->args, key); i++) {
        const char *text = message_text_item(o->args, key, i);
        if (text)
            str_printf(&input, "%s\n;\n\n", text);
    }
    int rc = 0;
    if (input.len > 0) {
        char *program = path_join(o->bin, "postgres");
        const char *const argv[] = {program,
                                    "--single",
                                    "-j",
                                    "-D",
                                    dir,
                                    "-c",
                                    "exit_on_error=true",
                                    "-c",
                                    "log_min_messages=error",
                                    "-c",
                                    "log_min_error_statement=panic",
                                    "-c",
                                    "log_statement=none",
                                    "-c",
                                    "log_min_duration_statement=-1",
                                    "-c",
                                    "log_duration=off",
                                    "-c",
                                    "log_destination=stderr",
                                    "-c",
                                    "shared_preload_libraries=",
                                    "-c",
                                    "session_preload_libraries=",
                                    dbname,
                                    NULL};
        rc = run(o, argv, &input, e);
        free(program);
    }
    str_free(&input);
    return rc < 0 ? err_wrap(e, "%s", key) : 0;
}

static int
write_settings(const struct order *o, const char *dir, struct err *e)
{
    struct settings s;
    int rc = settings_read(&s, dir, e);
    if (rc < 0)
        return rc;
    rc = settings_merge(&s, o->args, false, e);
    if (rc == 0)
        rc = settings_write(&s, dir, e);
    if (rc == 0)
        rc = settings_hba(dir, o->args, true, e);
    settings_done(&s);
    return rc;
}

static int
move_entry(const char *from_dir, const char *to_dir, const char *name, struct err *e)
{
    char *from = path_join(from_dir, name), *to = path_join(to_dir, name);
    int rc = rename(from, to) == 0 ? 0 : err_sys(e, errno, "cannot move %s", from);
    free(from);
    free(to);
    return rc;
}

/* Moves everything up, `global` last. */
static int
move_up(const struct order *o, const char *dir, struct err *e)
{
    DIR *d = opendir(dir);
    struct dirent *entry;
    int rc = d ? 0 : err_sys(e, errno, "%s", dir);
    while (rc == 0 && (entry = readdir(d)) != NULL) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 &&
            strcmp(entry->d_name, "global") != 0)
            rc = move_entry(dir, o->datadir, entry->d_name, e);
    }
    if (d)
        closedir(d);
    if (rc == 0)
        rc = io_fsync_dir(o->datadir, e);
    if (rc == 0)
        rc = move_entry(dir, o->datadir, "global", e);
    if (rc == 0 && rmdir(dir) != 0)
        rc = err_sys(e, errno, "cannot remove %s", dir);
    return rc < 0 ? rc : io_fsync_dir(o->datadir, e);
}

/* Takes away what an initdb that was killed has left, and before that its own children, which may write
 * for a moment longer. */
static int
begin_anew(const struct order *o, const char *dir, struct err *e)
{
    static const char *const lock[] = {"moonrise.lock", NULL};
    int rc = process_kill_all(dir, NULL, clock_ms() + 5000, e);
    if (rc == 0)
        rc = process_kill_all(o->datadir, NULL, clock_ms() + 5000, e);
    return rc < 0 ? rc : tree_empty(o->datadir, lock, e);
}

int
op_initdb(struct order *o, struct err *e)
{
    enum datadir_kind kind;
    if (o->bin[0] != '/')
        return err_set(e, ERR_ARGUMENT, "bin is no absolute path");
    int rc = datadir_kind(&kind, o->datadir, e);
    if (rc < 0)
        return rc;
    char *dir = order_path(o, "moonrise.init");
    /* With the note of a recovery beside it, what lies there is a copy that is half done. */
    if (kind == KIND_HALF_MADE && file_exists(o->datadir, "moonrise.init") &&
        !file_exists(o->datadir, "moonrise.patch"))
        rc = begin_anew(o, dir, e);
    else if (kind != KIND_EMPTY)
        rc = err_set(e, ERR_EXISTS, "%s is not empty", o->datadir);
    if (rc == 0)
        rc = run_initdb(o, dir, e);
    if (rc == 0)
        rc = write_settings(o, dir, e);
    if (rc == 0)
        rc = run_sql(o, dir, "template_sql", "template1", e);
    if (rc == 0)
        rc = run_sql(o, dir, "init_sql", "postgres", e);
    if (rc == 0)
        rc = move_up(o, dir, e);
    free(dir);
    if (rc == 0)
        message_set_bool(o->result, "made", true);
    return rc;
}
