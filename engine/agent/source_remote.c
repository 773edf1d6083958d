/*
 * A source on another host: what source_here.c does is done by a feeder there. What it answers is checked as
 * anything from outside is.
 */
#include "feed.h"
#include "moonrise/base/err.h"
#include "moonrise/base/path.h"
#include "moonrise/pg/label.h"
#include "source.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* While blocks are copied it is asked every second. */
#define CONTROL_SILENCE_MS 60000
/* Somebody else is there to do it. */
#define RELAY_CONNECT_MS 10000

static bool
cancelled(void *arg)
{
    return order_cancelled(arg);
}

static int
ask(struct message **out, struct source *s, const char *op, const struct message *args,
    struct err *e)
{
    struct link_call call = {.op = op, .args = args};
    return remote_call(out, &s->remote, &call, e);
}

static int
lies(const struct source *s, const char *what, struct err *e)
{
    return err_set(e, ERR_PROTOCOL, "%s sent %s that makes no sense", s->remote.peer, what);
}

/* What the feeder is told: the same as this order, but that its source is on its own host. */
static struct message *
there_args(const struct source *s, const struct message *args)
{
    const char *datadir = message_text(args, "datadir", "");
    const char *user = message_text(args, "user", s->o->user);
    const char *passfile = message_text(args, "passfile", s->o->passfile);
    struct message *m = message_new(), *source = message_new();
    message_set_text(source, "datadir", datadir);
    message_set_text(source, "user", user);
    message_set_text(source, "passfile", passfile);
    message_set_take(m, "source", source);
    message_set_text(m, "datadir", datadir);
    message_set_text(m, "user", user);
    message_set_text(m, "passfile", passfile);
    message_set_text(m, "dbname", s->o->dbname);
    message_set_text(m, "sysid", s->o->sysid);
    message_set_text(m, "slot", s->slot);
    message_set_int(m, "dbid", s->o->dbid);
    return m;
}

static uint64_t
number_of(const struct message *m, const char *key)
{
    return strtoull(message_text(m, key, "0"), NULL, 10);
}

static struct source_place
place_of(const struct message *m)
{
    return (struct source_place){.path = mem_strdup(message_text(m, "real", "")),
                                 .dev = number_of(m, "dev"),
                                 .ino = number_of(m, "ino")};
}

static int
read_source(struct source *s, const struct message *m, struct err *e)
{
    char *here = source_boot_id();
    s->sysid = number_of(m, "sysid");
    s->home = place_of(m);
    s->datadir = mem_strdup(s->home.path);
    s->boot_id = mem_strdup(message_text(m, "boot_id", ""));
    s->same_machine = strcmp(here, s->boot_id) == 0;
    free(here);
    if (s->sysid == 0 || !path_is_plain(s->datadir) || strcmp(s->datadir, "/") == 0 ||
        strchr(s->datadir, '\n'))
        return lies(s, "an instance", e);
    if (s->o->sysid[0] && s->sysid != strtoull(s->o->sysid, NULL, 10))
        return err_set(e, ERR_REFUSED, "%s is of system %" PRIu64 ", not of %s", s->datadir,
                       s->sysid, s->o->sysid);
    return 0;
}

/* Whether a host could not be reached for a reason that has nothing to do with who it is. A key that is on no
 * record cannot be told from a wrong one here, but who relays has it on record; one that is another than that
 * on record may be somebody's in the middle, and is not got round. */
static bool
is_out_of_reach(int rc)
{
    return rc == ERR_CONNECT || rc == ERR_TIMEOUT || rc == ERR_PERMISSION || rc == ERR_NOTFOUND ||
           rc == ERR_UNKNOWNKEY;
}

/* Has whoever gave the order relay, and tells why. */
static int
ask_for_relay(struct source *s, const char *why, struct err *e)
{
    const struct agent_call *call = s->o->call;
    int rc = remote_relay_open(&s->relay, s->host, call->cancel, e);
    if (rc < 0)
        return rc;
    struct message *m = message_new();
    message_set_text(m, "stage", "relay");
    message_set_text(m, "socket", s->relay.socket);
    message_set_text(m, "why", why);
    call->progress(call->progress_arg, m);
    message_free(m);
    s->way = &s->relay.way;
    return 0;
}

/* A feeder by ssh or, where nobody gets through to its host, by a relay. */
static int
open_feeder(struct source *s, const char *relay, struct err *e)
{
    struct remote_spec spec = {
        .way = &s->ssh.way, .silence_ms = CONTROL_SILENCE_MS, .stopped = cancelled, .arg = s->o};
    struct err why = {.code = ERR_CONNECT};
    bool offered = s->o->call->progress && strcmp(relay, "") != 0;
    int rc = ERR_CONNECT;
    s->way = spec.way;
    if (offered)
        s->ssh.connect_ms = RELAY_CONNECT_MS;
    if (!offered || strcmp(relay, "needed") != 0) {
        rc = remote_open(&s->remote, &spec, &why);
        s->ssh.connect_ms = REMOTE_CONNECT_MS;
        if (rc < 0 && e)
            *e = why;
        if (rc == 0 || !offered || s->remote.started || !is_out_of_reach(rc))
            return rc;
    }
    rc = ask_for_relay(s, why.message, e);
    spec.way = s->way;
    return rc < 0 ? rc : remote_open(&s->remote, &spec, e);
}

static int
remote_open_source(struct source *s, const struct message *args, struct err *e)
{
    struct message *m, *there;
    remote_ssh_init(&s->ssh, s->host, s->o->call->cancel);
    s->ssh.program = message_text(args, "program", NULL);
    int rc = open_feeder(s, message_text(args, "relay", ""), e);
    if (rc < 0)
        return rc;
    s->connected = true;
    there = there_args(s, args);
    rc = ask(&m, s, "source", there, e);
    message_free(there);
    if (rc == 0)
        rc = read_source(s, m, e);
    message_free(m);
    return rc;
}

static int
remote_begin(struct source *s, struct err *e)
{
    struct message *m;
    int rc = ask(&m, s, "begin", NULL, e);
    if (rc == 0 && lsn_parse(&s->start_lsn, message_text(m, "start_lsn", ""), NULL) < 0)
        rc = lies(s, "a position", e);
    message_free(m);
    return rc;
}

static int
remote_check(struct source *s, struct err *e)
{
    return ask(NULL, s, "check", NULL, e);
}

static int
remote_keep(struct source *s, struct source_wal *wal, struct err *e)
{
    char from[LSN_TEXT_BYTES];
    struct message *m, *args = message_new();
    message_set_text(args, "from", lsn_format(from, wal->from));
    message_set_bool(args, "carried", wal->carried);
    int rc = ask(&m, s, "keep", args, e);
    if (rc == 0) {
        wal->held_bytes = number_of(m, "held");
        wal->left_bytes = number_of(m, "left");
    }
    message_free(m);
    message_free(args);
    return rc;
}

static int
remote_end(struct source *s, struct err *e)
{
    struct message *m;
    struct label label;
    int rc = ask(&m, s, "end", NULL, e);
    if (rc == 0) {
        s->label = mem_strdup(message_text(m, "label", ""));
        rc = label_parse(&label, s->label, strlen(s->label), e);
    }
    message_free(m);
    return rc;
}

static int
remote_spaces(struct source *s, struct err *e)
{
    struct message *m;
    int rc = ask(&m, s, "spaces", NULL, e);
    for (size_t i = 0; rc == 0 && i < message_count(m, "spaces"); i++) {
        const struct message *item = message_item(m, "spaces", i);
        const char *oid = item ? message_text(item, "oid", "") : "";
        const char *path = item ? message_text(item, "path", "") : "";
        const char *real = item ? message_text(item, "real", "") : "";
        if (!oid[0] || oid[strspn(oid, "0123456789")] || path[0] != '/' || !path_is_plain(real) ||
            strcmp(real, s->datadir) == 0 || strpbrk(path, "\n\\")) {
            rc = lies(s, "a tablespace", e);
            continue;
        }
        struct source_space space = {
            .oid = mem_strdup(oid), .path = mem_strdup(path), .place = place_of(item)};
        source_add_space(s, &space);
    }
    message_free(m);
    return rc;
}

/* "pg_wal/0000000A.history", or one of the two files of settings. */
static bool
is_wanted(const char *name)
{
    static const char history[] = "pg_wal/", end[] = ".history";
    if (strcmp(name, "moonrise.conf") == 0 || strcmp(name, "postgresql.auto.conf") == 0)
        return true;
    return strncmp(name, history, sizeof history - 1) == 0 &&
           strspn(name + sizeof history - 1, "0123456789ABCDEF") == 8 &&
           strcmp(name + sizeof history - 1 + 8, end) == 0;
}

static int
remote_files(struct source *s, struct err *e)
{
    struct message *m;
    int rc = ask(&m, s, "files", NULL, e);
    for (size_t i = 0; rc == 0 && i < message_count(m, "files"); i++) {
        const struct message *item = message_item(m, "files", i);
        const char *name = item ? message_text(item, "name", "") : "";
        struct str text = STR_INIT;
        if (!is_wanted(name) || !feed_get_hex(&text, message_text(item, "hex", "-"))) {
            rc = lies(s, "a file", e);
            str_free(&text);
        } else {
            source_add_file_take(s, name, &text);
        }
    }
    message_free(m);
    return rc;
}

static int
remote_lives(bool *out, struct source *s, struct err *e)
{
    struct message *m;
    int rc = ask(&m, s, "lives", NULL, e);
    *out = rc == 0 && message_bool(m, "lives", false);
    message_free(m);
    return rc;
}

const struct source_kind source_remote = {.open = remote_open_source,
                                          .begin = remote_begin,
                                          .check = remote_check,
                                          .keep = remote_keep,
                                          .end = remote_end,
                                          .spaces = remote_spaces,
                                          .files = remote_files,
                                          .lives = remote_lives};
