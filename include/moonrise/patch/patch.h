/*
 * The patch: makes a target data directory equal to a source by moving only the blocks that differ.
 *
 * patch_run blocks and is called from a job; it uses worker threads of its own. It knows nothing of
 * servers: proving that the target is stopped, the backup session around it and the start afterwards
 * are the agent's (engine/agent/recover.c). Order of writing and resuming: SAFETY.md's rule 5. The
 * source is an interface (patch/source.h): a directory of this host here.
 *
 * Resuming. Nothing is remembered between runs: the target's own blocks say what is done. A differential
 * compares them again and keeps what is right, a full patch writes all again; both end in the same state,
 * wherever the run before was interrupted. (A full recovery that is run again is a differential patch.)
 *
 * Flushing. Each file is flushed through the descriptor that wrote it, while the next ones are copied, also
 * a file in which nothing differed, since an earlier run that was killed may have left it in the cache only;
 * then each directory.
 * syncfs(2) would not do: it names no file, it reports write errors since Linux 5.8 only, and it waits
 * for all that is dirty on the file system, the source server's own pages included. A file whose flush
 * failed is dropped from the page cache: the kernel forgets an error that it has told once and calls the
 * pages clean, and the next run would find equal in the cache what the disk does not hold. The target's
 * server may have been told of such an error, and have panicked: unless it is known to have flushed all
 * (target_flushed: it was shut down, which ends in a checkpoint, and nobody wrote since), each file that is
 * compared is written out and dropped from the cache first, so that the disk is asked.
 *
 * Room. What the source has not is deleted before anything is copied: a target that has no room for both
 * would fail again and again. It cannot be started by then in any case.
 *
 * Memory does not depend on the size of the data: two buffers of a range for each of at most four threads
 * and a queue of 64 ranges, about 10 MB; from another host as much again for what is received. It grows with the number of files: the list takes about 17 bytes
 * a file and, while one directory is read, some 15 more for each name in it, so that a million files in a
 * single directory come to about 42 MB and one and a half million reach PATCH_MEMORY_BYTES. More are
 * copied all the same, with more memory.
 */
#ifndef MOONRISE_PATCH_PATCH_H
#define MOONRISE_PATCH_PATCH_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct err;
struct patch_source;

#define PATCH_MEMORY_BYTES (64u << 20)
#define PATCH_THREADS_MAX  4 /* they wait for disks more than they compute */

enum patch_type {
    PATCH_FULL,         /* every block is written, whatever the target holds */
    PATCH_DIFFERENTIAL, /* blocks that differ are written */
};

enum patch_stage { PATCH_LISTING, PATCH_DELETING, PATCH_COPYING, PATCH_FLUSHING, PATCH_DONE };

/* Numbers that only grow, written by the workers, read by whoever shows progress. */
struct patch_progress {
    _Atomic int stage;              /* enum patch_stage */
    _Atomic uint64_t bytes_total;   /* bytes of the source to be looked at */
    _Atomic uint64_t bytes_done;    /* of those */
    _Atomic uint64_t bytes_written; /* bytes written to the target */
    _Atomic uint64_t files_total;
    _Atomic uint64_t files_done;
    _Atomic uint64_t files_deleted;
    _Atomic uint64_t bytes_different; /* of blocks that were not equal */
    _Atomic uint64_t bytes_moved;     /* sent and received, by a source of another host */
};

struct patch_tablespace {
    const char *oid;    /* name of the link in pg_tblspc */
    const char *source; /* directory on the source's side, absolute */
    const char *target; /* and on the target's; never the same directory */
};

struct patch_spec {
    enum patch_type type;
    const char *source_dir;
    const char *target_dir;
    /* Where pg_wal of a new target points to, missing or empty, or NULL: inside it. */
    const char *target_wal_dir;
    const struct patch_tablespace *tablespaces;
    int tablespace_count;
    bool target_flushed; /* the target's disk holds what its server wrote: see Flushing */
    int threads;         /* at most PATCH_THREADS_MAX; 0: see patch_threads */
    uint64_t max_rate;   /* bytes a second read from the source, 0: no limit */
    struct patch_progress *progress; /* or NULL */
    const atomic_bool *cancel;       /* or NULL */
    struct patch_source *source;     /* NULL: source_dir and tablespaces[].source, of this host */
};

/* Makes the target's files equal to the source's, all but global/pg_control, and flushes them. The
 * target directory exists (it may be empty) and no server uses it. A file that vanishes or shrinks on
 * the source meanwhile is no error (the WAL replay of the target settles it). Called again after any
 * interruption it goes on. ERR_IO, ERR_SPACE, ERR_CANCELLED, ERR_REFUSED (both directories, or two
 * tablespaces, are one; the new WAL directory is in use), ERR_FORMAT. */
int patch_run(const struct patch_spec *spec, struct err *e);

/* How many workers a patch has, each with a stream of its own to the source: PATCH_THREADS_MAX unless the spec
 * says less; from another host as many as there are processors here, and at least two, since a login and a
 * program at the other end cost more than a thread. */
int patch_threads(const struct patch_spec *spec);

/* Copies the source's pg_control into the target, last, durably: written beside, flushed, renamed,
 * its directory flushed. ERR_FORMAT when it cannot be read whole. */
int patch_finish(const struct patch_spec *spec, struct err *e);

#endif
