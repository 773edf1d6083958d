/*
 * Where the blocks of a patch come from: an interface, so that the driver (engine/patch/patch.c) does
 * not know whether the source is a directory of this host or an agent of another one.
 *
 * A source lists its files into a struct patch_list, then answers questions about ranges of them: which
 * blocks differ from these, and what do they hold. The local source reads the range and compares it with
 * the target's bytes; one that is far away hashes the target's bytes, sends the hashes, and receives the
 * blocks that differ. `list` is called once, from one thread; `open` and `close` from any worker,
 * concurrently.
 *
 * Each worker has a stream of its own to the source. It asks ahead, up to `window` questions, and takes the
 * answers in the same order, so that the way to the source and back does not make it wait.
 *
 * A name that comes out of a list is one path component of a directory that was listed before it; the
 * list refuses everything else (ERR_FORMAT), since another host may have written it.
 */
#ifndef MOONRISE_PATCH_SOURCE_H
#define MOONRISE_PATCH_SOURCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct patch_list;
struct patch_progress;
struct patch_spec;

/* The most questions that a stream has open. A way of 100 ms is filled with them at 640 MB/s, where blocks
 * are equal. */
#define PATCH_WINDOW_MAX 64

/* What is compared, counted and written: divides every range, and is divided by what direct I/O asks
 * for. Not the block size of the relations; a range holds whole blocks of every size PostgreSQL has. */
#define PATCH_UNIT_BYTES   8192u
#define PATCH_RANGE_BYTES  (1u << 20)
#define PATCH_RANGE_UNITS  (PATCH_RANGE_BYTES / PATCH_UNIT_BYTES)
#define PATCH_BUFFER_ALIGN 4096u

/* Flags of a file in a list. */
enum patch_entry_flag {
    PATCH_ENTRY_OTHER = 1, /* a link or a special file: not copied, the target's is left alone */
    PATCH_ENTRY_GONE = 2,  /* vanished from the source while it was copied */
};

/* Kinds of listed directories. */
enum patch_dir_kind {
    PATCH_DIR_COPY,  /* its files follow */
    PATCH_DIR_EMPTY, /* it exists; what it holds on the target goes (pg_wal, pg_replslot, ...) */
};

struct patch_listed_dir {
    uint32_t root;    /* 0: the data directory, 1 + i: tablespace i of the spec */
    const char *path; /* relative to the root, without slashes at its ends; "" is the root itself */
    uint32_t mode;
    enum patch_dir_kind kind;
};

struct patch_listed_file {
    const char *name;
    uint64_t size;
    uint32_t mode;
    uint32_t flags; /* enum patch_entry_flag */
};

/* Begins a directory: the files that patch_list_file adds next are in it. ERR_FORMAT, ERR_LIMIT. */
int patch_list_dir(struct patch_list *l, const struct patch_listed_dir *dir, struct err *e);

/* Adds a file to the directory begun last. Names ascend in the order of strcmp. ERR_FORMAT, ERR_LIMIT. */
int patch_list_file(struct patch_list *l, const struct patch_listed_file *file, struct err *e);

/* A file as the driver opens it. */
struct patch_name {
    uint32_t root;
    const char *dir; /* relative to the root */
    const char *name;
    uint64_t size; /* when it was listed */
};

/* One question: which units of `bytes` bytes from `offset` differ from `have`? */
struct patch_ask {
    void *file;          /* as `open` gave it; stays open until the answer */
    uint64_t offset;     /* a multiple of PATCH_RANGE_BYTES */
    uint32_t bytes;      /* up to PATCH_RANGE_BYTES */
    const uint8_t *have; /* until the answer, where the window is 1; else until `ask` returns */
    uint32_t have_bytes; /* how much of the range the target holds; 0 asks for everything */
};

/* The answer. A unit of which the target holds less than the source differs. */
struct patch_answer {
    uint8_t *data;  /* the asker's, PATCH_RANGE_BYTES, aligned; defined where a unit differs */
    uint32_t bytes; /* of the range that the source has: fewer than asked at its end */
    bool gone;      /* the file has vanished */
    bool differs[PATCH_RANGE_UNITS];
};

/* What a stream is told of the run that it serves. */
struct patch_link {
    bool (*stopped)(void *arg); /* whether to give up waiting: ERR_CANCELLED */
    void *arg;
    struct patch_progress *progress; /* never NULL; bytes_moved is the stream's */
};

struct patch_source {
    /* Fills the list. */
    int (*list)(struct patch_source *s, struct patch_list *l, struct err *e);
    /* Opens a stream, for one thread. Its questions are no more than *window at once. */
    int (*connect)(struct patch_source *s, void **stream, uint32_t *window,
                   const struct patch_link *link, struct err *e);
    /* Opens a file; *file is handed to ask and close. ERR_NOTFOUND when it has vanished, which one that is
     * far away says in its answer instead. */
    int (*open)(struct patch_source *s, void **file, const struct patch_name *name, struct err *e);
    int (*ask)(void *stream, const struct patch_ask *ask, struct err *e);
    /* Waits for the answer to the oldest question that has none yet. */
    int (*answer)(void *stream, struct patch_answer *answer, struct err *e);
    void (*close)(struct patch_source *s, void *file);
    void (*disconnect)(void *stream); /* questions may be open; NULL is fine */
    /* Reads pg_control whole into `image` (CONTROL_FILE_BYTES). */
    int (*control)(struct patch_source *s, void *image, struct err *e);
    void (*free)(struct patch_source *s);
};

/* The source for source_dir and the tablespaces of the spec, which must outlive it. ERR_NOTFOUND, ERR_IO
 * when a directory cannot be opened. Freed by its own `free`. */
int patch_source_local(struct patch_source **out, const struct patch_spec *spec, struct err *e);

/* Compares as the interface says: sets answer->differs from answer->data, answer->bytes and the
 * target's bytes. For sources. */
void patch_answer_compare(struct patch_answer *answer, const struct patch_ask *ask);

/* Hashes of the units of some bytes of a range, PATCH_HASH_BYTES each; the last unit may be short. */
#define PATCH_HASH_BYTES 16u
void patch_hashes(uint8_t *out, uint64_t seed, const uint8_t *data, uint32_t bytes);

/* How many units so many bytes of a range have. */
uint32_t patch_units(uint32_t bytes);

/* The same comparison by hashes, of `have_bytes` of the target. A unit of which the two sides have different
 * lengths differs. */
struct patch_hashed {
    uint64_t seed;
    const uint8_t *hashes;
    uint32_t have_bytes;
};
void patch_answer_compare_hashes(struct patch_answer *answer, const struct patch_hashed *have);

/* Whether a file can be named so: both are relative and lead nowhere else. What a list refuses, and what a
 * source is asked for. */
bool patch_path_ok(const char *dir, const char *name);

/* A list for whoever passes it on to another host; a run has its own. */
struct patch_list *patch_list_new(void);
void patch_list_free(struct patch_list *l);

/* Calls for each directory, then for each of its files, in the order in which they were listed, until one call
 * returns an error. */
struct patch_list_visitor {
    int (*dir)(void *arg, const struct patch_listed_dir *dir, struct err *e);
    int (*file)(void *arg, const struct patch_listed_file *file, struct err *e);
    void *arg;
};
int patch_list_visit(const struct patch_list *l, const struct patch_list_visitor *v, struct err *e);

#endif
