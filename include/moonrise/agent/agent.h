/*
 * The agent: the far end of a session, next to the data. It answers questions about the instances of its
 * host and carries out orders on them.
 *
 * Operations and their fields (JSON objects; LSNs are text, system identifiers are text, sizes bytes):
 *
 * Every operation on an instance takes `datadir`, `port`, `bin` (PostgreSQL's bin directory), and where
 * it speaks SQL `user`, `passfile` and `dbname` (postgres); the socket directory is read from postmaster.pid.
 * While a question whose caller has given up still runs, the same one about that directory is "busy".
 *
 *   hello    -> version, hostname, pid, uid, os_user, boot_id, page_bytes
 *   tls      (cert, key, ca|absent, names: [texts]) -> left_s: seconds that the certificate is valid for.
 *            Whether a server of this host can use these files, and whether the certificate is made out
 *            to each of the names; certificate.h says what is checked
 *   programs (bin) -> version: what postgres says there, "postgres (PostgreSQL) 15.8"; initdb and pg_ctl can be
 *            run, too
 *   address  (address, port: 0 is none) -> known: bool, what this host makes of a name; and with a port free: bool,
 *            whether a server of this host could listen there; why: text, of a no
 *   passfile (path, text) keeps the password of role moonrise, in a directory for this user alone
 *   record_read (name, sysid, host, wait_ms) -> found: bool, and when it is: epoch, coordinator, standby, mode,
 *            catalog_epoch: what this host, under this of its names, holds on record of the coordinator's
 *            pair of that cluster; not found is no vote, since it may have been lost. "format": it is damaged
 *   record_write (name, sysid, host, epoch, coordinator, standby (0: none), mode: "s"|"n",
 *            catalog_epoch, activates: bool, wait_ms) makes that record, durably -> as record_read. "stale"
 *            when the host has one of a higher epoch, or of the same one that says n where this says s; an
 *            identical one is written again. "refused" when it names another coordinator, but for an
 *            activation. The catalog's epoch never goes back
 *   inspect  (measure: bool, try: bool) -> the host's word about an instance:
 *            kind: "missing" | "empty" | "foreign" (not a data directory) | "datadir" | "half-made"
 *            identity: text, the same for two names of one directory and for no two directories
 *            stopped: bool   SAFETY.md's sense; processes: [{pid, state, exe, title}]
 *            serves: bool, only with try: true: a new session over its socket is answered within a second or two
 *            postmaster: {pid, alive, ours: bool, port, socket_dir, listen, status, start_s,
 *            socket_lock: bool}
 *            control: {aside: bool, sysid, state, timeline, checkpoint, redo, min_recovery,
 *                      min_recovery_timeline, newest_timeline (of the history files in pg_wal), checkpoint_sum,
 *                      checksums: bool, wal_log_hints: bool, block_bytes,
 *                      segment_blocks, wal_segment_bytes, shutdown_end (LSN, only when shut down)},
 *                      or {error: text} when it cannot be read
 *            recovery: {pid, title, progress} while a startup process runs; `progress` is a number that
 *                      grows while it works
 *            epoch: {valid, epoch, step, order, barred, marked, reason, sysid, dbid, why (not valid)}
 *            standby_signal, backup_label: bool; patch: {type, stage, source, sysid, dbid, started_s,
 *            running: bool, bytes_done, bytes_total} of an unfinished recovery; free_bytes;
 *            tablespaces: [{oid, path}]; wal_dir; data_bytes (only with measure: true); adoption: text, of
 *            one that was adopted as it ran; config_dir: where its configuration files are, when that is
 *            not its data directory; lost_config_dir: where Debian has them for a directory that is missing,
 *            empty or half-made and does not name them (any more)
 *   disk     -> writable: bool; disk_error: text when it is not. A block is written and flushed, in the
 *            directory and where its pg_wal leads to, which takes long on a disk that hangs. Nothing is
 *            left there, whenever the agent is killed
 *   history  (checkpoint, position: LSN) -> checkpoint_sum: as inspect's, of the checkpoint record that this instance's
 *            WAL holds there (absent: it holds another record, or none); known: bool, false when that part
 *            of its WAL has been removed; ends_before: bool, its WAL ends before that checkpoint or before
 *            `position`; epoch: of its epoch file, when that is valid
 *   read     (name: one of postgresql.auto.conf, moonrise.conf, pg_hba.conf, PG_VERSION, log)
 *            -> text (log: its tail)
 *   reload   has a server read its configuration files again, over its socket
 *   makedirs -> kind
 *   describe (text) writes moonrise.json, by which tools find the cluster
 *   sql      (statements: [texts], params: [texts] of a single one, wait_ms) -> rows: [{column: value}], command:
 *            the last one's. One after another in one session, as `user` or, without one, as this process's user,
 *            whom the superuser's line of pg_hba.conf lets in by peer. Commits wait for nobody
 *   try      has a server read its files as for a start; "child" with its words when it would not start
 *   configuration -> of an instance whose configuration files are not in its data directory: config (the
 *            settings of the main file and all that it includes, but for those of place, of role, and of
 *            moonrise.conf), hba, ident: texts; tls: {cert, key, ca}, without which a server with these
 *            settings would not start. Of any other: nothing
 *   survey   (config_file, hba_file: paths, in the data directory when absent) -> starts: [{what, end}]
 *            what starts the instance by itself, and how that is ended; parent:
 *            the command line of the postmaster's parent process; unit: the systemd unit whose control
 *            group it is in; links, closed: paths of its configuration files that are symbolic links, or
 *            that cannot be written anew
 *
 * Orders change an instance. They take also dbid, content, sysid, epoch, step, run under the instance's
 * epoch lock, and are refused with "stale" when (epoch, step) is not newer than the last (an identical
 * repeat is carried out again: all are idempotent). Without an epoch file all but adopt, disown, initdb,
 * recover and remove_datadir are refused. An order of a newer epoch ends older ones that are still being carried
 * out.
 *
 *   initdb    (superuser, encoding, locale, settings: {}, hba: [lines], template_sql: [texts],
 *             init_sql: [texts]) makes the directory, configures it, runs the texts in template1 and
 *             in postgres; it is left stopped. Then adopt.
 *   adopt     (adoption: text|absent; config_file, hba_file, ident_file: absolute paths, of one that does
 *             not have them in its data directory, kept in moonrise.files) creates or replaces
 *             moonrise.epoch -> sysid; with an adoption's identifier, of an instance that moonrise did not
 *             make, that and what ALTER SYSTEM has said are kept in moonrise.before
 *   disown    (adoption, forget: bool (true)) takes back what that adoption and configure have written;
 *             with forget the epoch file and moonrise.json, .files and .before go, too. Refused, and
 *             nothing touched, where moonrise.before is another adoption's; "notfound" where there is none
 *   configure (settings: {name: value, or false to take it out}, hba: [lines]|absent,
 *             standby: bool|absent, reload: bool (true))
 *             writes moonrise's part of the configuration of a stopped or running instance -> running
 *   start     (listen, settings: {}, wait_ms) -> pid, in_recovery, streaming, already
 *             refuses a marked or half-made directory; one that listens nowhere is started anew
 *   stop      (mode: smart|fast|immediate, wait_ms, fence: bool (not for smart): what has not stopped by
 *             then is fenced) -> stopped, fenced, state, shutdown_end, timeline
 *   fence     () -> stopped, killed: [pid as text]; ends every process of the instance, proven
 *   mark      (reason) writes the mark; if stopped moves pg_control aside -> marked, aside
 *   bar       () nothing but that orders of epochs up to its own are refused from now on, also those that
 *             wait or are under way -> epoch, order (the last one's, which stay on record), marked,
 *             standby_signal: the instance as no such order will change it any more
 *   name      (name, wait_ms) gives this mirror its synchronous name (primary_conninfo's
 *             application_name) -> changed, streaming (under that name), ms
 *   arm       (name, slot, max_lag_bytes) on a primary -> insert_lsn, waited_ms, server_version,
 *             waits_from_start (false: a minor that lets commits through while it starts)
 *   release   (wait_ms) on a primary: synchronous_standby_names empty, seen effective -> waited_ms
 *   promote   (flush_lsn, slot, slots_drop: [names], wait_ms) on a mirror
 *             -> timeline, switch_lsn, already, slots_left, received_lsn (flush_lsn, when that is
 *             past the switch: what followed was no whole record)
 *   follow    (conninfo, slot) points a mirror at its primary
 *   slot      (name, create: bool) makes or drops a physical slot -> made | dropped
 *   checkpoint (wait_ms) immediate, waits -> ms
 *   recover   (type: full|differential, role, source: {host, relay, program, datadir, port, user, passfile},
 *             slot,
 *             settings: as configure's, hba, listen, tablespaces: [{oid, target}], wal_dir,
 *             configuration: the source's answer to that question,
 *             accept_foreign: bool, start: bool, wait_ms, max_rate, threads)
 *             source.host: where the source is, by ssh from here; absent: on this host. user and passfile are
 *             those of its host, program is moonrise there (absent: where it is here, or was deployed)
 *             source.relay: offered|needed, by whom gave the order: where ssh does not get there, or at once, the
 *             progress says {stage: relay, socket, why}, and what joins `moonrise agent --relay SOCKET` here with
 *             `moonrise agent --feed` there is waited for. Not where the host's key is another than on record
 *             progress: {stage, bytes_total, bytes_done, bytes_written, bytes_different, bytes_moved (between
 *             the hosts), files_...}
 *             -> the same numbers, type, ms, pid, streaming; the target streams when it answers; wal: "held" by
 *             the slot, or "carried": received into the target from the moment on when the slot might not hold
 *             it for much longer, wal_bytes (in whole segments)
 *   remove_datadir (maker | replaced: true, fence: bool) removes a directory that moonrise made, or was making,
 *             and that is stopped; with fence, what runs in it is ended first -> removed (absent: it was not
 *             there). With replaced: what a recovery to another place has left, by its sysid and dbid, and
 *             only when it is marked or half-made
 *
 * The agent ends, with all its work, when its session ends; servers it has started live on.
 */
#ifndef MOONRISE_AGENT_AGENT_H
#define MOONRISE_AGENT_AGENT_H

#include <stdatomic.h>

struct err;
struct message;

/* Serves on standard input and output until the session ends. Returns the process's exit code. */
int agent_main(void);

/* The same for the end of a copy that stands next to the source's files (engine/agent/feeder.c). */
int feeder_main(void);

/* Joins standard input and output to a recovery of this host that listens there for who relays
 * (engine/agent/remote_relay.h). */
int relay_main(const char *path);

/* One operation and what it is given. */
struct agent_call {
    const char *op;
    const struct message *args;
    const atomic_bool *cancel; /* or NULL */
    void (*progress)(void *progress_arg,
                     const struct message *m); /* from the calling thread; or NULL */
    void *progress_arg;
};

/* Carries out one operation in the calling thread, which blocks: what agent_main's jobs run, and tests.
 * *out is the result, to be freed with message_free. Errors are those of the operation; ERR_PROTOCOL for
 * one that does not exist or lacks an argument. */
int agent_call(struct message **out, const struct agent_call *call, struct err *e);

#endif
