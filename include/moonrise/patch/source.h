/*
 * Where the blocks of a patch come from: an interface, so that the driver (engine/patch/patch.c) does
 * not know whether the source is a directory of this host or an agent of another one.
 *
 * A source lists its files into a struct patch_list, then answers questions about ranges of them: which
 * blocks differ from these, and what do they hold. The local source reads the range and compares it with
 * the target's bytes; one that is far away hashes the target's bytes, sends the hashes, and receives the
 * blocks that differ. `list` is called once, from one thread; the others from any worker, concurrently.
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
struct patch_spec;

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
    uint64_t offset; /* a multiple of PATCH_RANGE_BYTES */
    uint32_t bytes;  /* up to PATCH_RANGE_BYTES */
    const uint8_t *have;
    uint32_t have_bytes; /* how much of the range the target holds; 0 asks for everything */
};

/* The answer. A unit of which the target holds less than the source differs. */
struct patch_answer {
    uint8_t *data;  /* the asker's, PATCH_RANGE_BYTES, aligned; defined where a unit differs */
    uint32_t bytes; /* of the range that the source has: fewer than asked at its end */
    bool differs[PATCH_RANGE_UNITS];
};

struct patch_source {
    /* Fills the list. */
    int (*list)(struct patch_source *s, struct patch_list *l, struct err *e);
    /* Opens a file; *file is handed to range and close. ERR_NOTFOUND when it has vanished. */
    int (*open)(struct patch_source *s, void **file, const struct patch_name *name, struct err *e);
    int (*range)(struct patch_source *s, void *file, const struct patch_ask *ask,
                 struct patch_answer *answer, struct err *e);
    void (*close)(struct patch_source *s, void *file);
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

#endif
