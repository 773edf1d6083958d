/*
 * Questions about the host and its files, and the directories around an instance.
 */
#include "adoption.h"
#include "aside.h"
#include "inspect.h"
#include "layout.h"
#include "moonrise/base/err.h"
#include "moonrise/base/io.h"
#include "moonrise/base/path.h"
#include "moonrise/base/str.h"
#include "moonrise/base/user.h"
#include "moonrise/loop/loop.h"
#include "order.h"
#include "process.h"
#include "tree.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef MOONRISE_VERSION
#define MOONRISE_VERSION "0.1"
#endif

#define READ_BYTES_MAX (1u << 20)
#define LOG_TAIL_BYTES (16u << 10)
#define FENCE_MS       5000

int
op_hello(struct order *o, struct err *e)
{
    char host[256] = "";
    struct str boot = STR_INIT;
    struct user user;
    gethostname(host, sizeof host - 1);
    int rc = io_read_file(&boot, "/proc/sys/kernel/random/boot_id", 4096, e);
    if (rc < 0)
        return rc;
    boot.data[strcspn(boot.data, "\n")] = '\0';
    message_set_text(o->result, "version", MOONRISE_VERSION);
    message_set_text(o->result, "hostname", host);
    message_set_int(o->result, "pid", getpid());
    message_set_int(o->result, "uid", geteuid());
    user_read(&user, NULL);
    message_set_text(o->result, "os_user", user.name ? user.name : "");
    user_done(&user);
    message_set_text(o->result, "boot_id", boot.data);
    message_set_int(o->result, "page_bytes", sysconf(_SC_PAGESIZE));
    str_free(&boot);
    return 0;
}

/* The end of the server's log. */
static int
read_log(struct str *out, const struct order *o, struct err *e)
{
    char *path = order_path(o, "log/postgresql.log");
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    int rc = 0;
    if (fd < 0 || fstat(fd, &st) != 0) {
        rc = err_sys(e, errno, "%s", path);
    } else {
        char *buf = mem_alloc(LOG_TAIL_BYTES);
        uint64_t from = st.st_size > LOG_TAIL_BYTES ? (uint64_t)st.st_size - LOG_TAIL_BYTES : 0;
        ssize_t n = io_pread_full(fd, buf, LOG_TAIL_BYTES, from, e);
        if (n < 0)
            rc = err_wrap(e, "%s", path);
        else
            str_append(out, buf, (size_t)n);
        free(buf);
    }
    if (fd >= 0)
        close(fd);
    free(path);
    return rc;
}

int
op_read(struct order *o, struct err *e)
{
    static const char *const allowed[] = {"postgresql.auto.conf", "pg_hba.conf", "PG_VERSION",
                                          "moonrise.conf"};
    const char *name;
    struct str text = STR_INIT;
    int rc = message_need_text(o->args, "name", &name, e);
    if (rc < 0)
        return rc;
    rc = err_set(e, ERR_ARGUMENT, "'%.32s' cannot be read", name);
    if (strcmp(name, "log") == 0)
        rc = read_log(&text, o, e);
    for (size_t i = 0; i < sizeof allowed / sizeof *allowed; i++) {
        if (strcmp(name, allowed[i]) == 0) {
            struct layout l;
            char *path = order_path(o, name);
            bool hba = strcmp(name, "pg_hba.conf") == 0;
            rc = layout_read(&l, o->datadir, e);
            if (rc == 0)
                rc = io_read_file(&text, hba ? l.hba_file : path, READ_BYTES_MAX, e);
            layout_done(&l);
            free(path);
        }
    }
    if (rc == 0)
        message_set_text(o->result, "text", text.data);
    str_free(&text);
    return rc;
}

int
op_makedirs(struct order *o, struct err *e)
{
    enum datadir_kind kind;
    int rc = io_make_dirs(o->datadir, 0700, e);
    if (rc == 0)
        rc = datadir_kind(&kind, o->datadir, e);
    if (rc == 0)
        message_set_text(o->result, "kind", datadir_kind_name(kind));
    return rc;
}

/* Only what moonrise made, or was making, may go; and never what runs. */
static int
may_remove(const struct order *o, struct err *e)
{
    enum datadir_kind kind;
    struct epoch ep;
    int rc = datadir_kind(&kind, o->datadir, e);
    if (rc == 0)
        rc = epoch_read(&ep, o->datadir, e);
    if (rc == 0 && kind == KIND_HALF_MADE)
        rc = order_compare_note(o, e);
    if (rc < 0)
        return rc;
    if (kind == KIND_FOREIGN || (kind == KIND_DATADIR && !ep.valid))
        return err_set(e, ERR_REFUSED, "%s was not made by moonrise", o->datadir);
    if (adoption_noted(o->datadir))
        return err_set(e, ERR_REFUSED, "%s was adopted, not made by moonrise", o->datadir);
    if (ep.valid && ep.dbid != o->dbid)
        return err_set(e, ERR_REFUSED, "%s belongs to dbid %d", o->datadir, ep.dbid);
    return 0;
}

/* With args.fence whoever uses the directory is ended; also the children of an initdb that was killed. */
static int
end_users(const struct order *o, struct err *e)
{
    if (!message_bool(o->args, "fence", false))
        return process_prove_stopped(o->datadir, e);
    char *init = order_path(o, "moonrise.init");
    int rc = process_kill_all(init, NULL, clock_ms() + FENCE_MS, e);
    if (rc == 0)
        rc = process_kill_all(o->datadir, NULL, clock_ms() + FENCE_MS, e);
    free(init);
    return rc;
}

/* From here on it is half-made, and what is left of it says by which order: the epoch file goes with the
 * rest. */
static int
write_note(const struct order *o, struct err *e)
{
    struct str text = STR_INIT;
    char *path = order_path(o, "moonrise.patch");
    str_printf(&text,
               "stage = 'removing'\norder = '%s'\nepoch = '%" PRIu64 "'\nstep = '%" PRIu32 "'\n"
               "dbid = '%d'\nsysid = '%s'\n",
               o->claim.op, o->claim.epoch, o->claim.step, o->dbid, o->sysid);
    int rc = io_write_durable(path, text.data, text.len, 0600, e);
    free(path);
    str_free(&text);
    return rc;
}

/* What was replaced may have been a mount point, or lie in a directory that is not ours: then it stays,
 * empty. */
static int
remove_emptied(const struct order *o, struct err *e)
{
    bool may_stay = message_bool(o->args, "replaced", false);
    int rc = tree_empty(o->datadir, NULL, e);
    if (rc == 0 && rmdir(o->datadir) != 0 && errno != ENOENT && !may_stay)
        rc = err_sys(e, errno, "cannot remove %s", o->datadir);
    return rc;
}

int
op_remove_datadir(struct order *o, struct err *e)
{
    static const char *const last[] = {"moonrise.lock", "moonrise.made", "moonrise.patch", NULL};
    /* Whose it is goes after what says that something is left. */
    static const char *const whose[] = {"moonrise.lock", "moonrise.made", NULL};
    if (!file_exists(o->datadir, "."))
        return 0; /* it has been carried out before */
    int rc = may_remove(o, e);
    if (rc == 0)
        rc = end_users(o, e);
    if (rc == 0)
        rc = write_note(o, e);
    if (rc == 0)
        rc = aside_move(o->datadir, e);
    if (rc == 0)
        rc = tree_empty(o->datadir, last, e);
    if (rc == 0)
        rc = tree_empty(o->datadir, whose, e);
    if (rc == 0)
        rc = remove_emptied(o, e);
    if (rc == 0)
        message_set_bool(o->result, "removed", true);
    return rc;
}
