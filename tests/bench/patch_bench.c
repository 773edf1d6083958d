/*
 * Times a patch of directories, for tests/bench and by hand:
 *
 *   patch_bench make DIR MB         fills DIR like a data directory: segments of 1 GB and small files, of
 *                                   pages that compress as real ones do, lz4 to a half, zstd to a third
 *   patch_bench spoil DIR PPM SEED  changes PPM millionths of the 8 KiB blocks of its large files
 *   patch_bench killed ...          a full one that is killed when it has looked at 90 %
 *   patch_bench full|differential SOURCE TARGET [THREADS [HOST PROGRAM | PROGRAM ARGS...]]
 *                                   one patch: prints seconds, bytes, the largest memory used; from feeders
 *                                   that ssh starts on a host, or of this one
 */
#include "../lib/child_way.h"

#include "../../engine/agent/remote_blocks.h"
#include "../../engine/agent/remote_ssh.h"
#include "moonrise/base/err.h"
#include "moonrise/patch/patch.h"
#include "moonrise/patch/source.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define BLOCK       8192u
#define SEGMENT_MB  1024u
#define SMALL_FILES 900u

static uint64_t
next(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static void
put32(uint8_t *at, uint32_t v)
{
    memcpy(at, &v, sizeof(v));
}

/* One row as a table of orders has them: a tuple header, a number, an identifier and an amount nobody could
 * guess, words. Returns its length, a multiple of 8. */
static unsigned
fill_tuple(uint8_t *t, uint32_t row, uint64_t *seed)
{
    static const char *const words[] = {
        "open",    "closed", "shipped", "order",  "customer", "north",   "south",   "express",
        "invoice", "paid",   "pending", "return", "account",  "special", "request", "carefully",
        "deposit", "final",  "regular", "quick",  "blue",     "green",   "package", "warehouse"};
    unsigned at = 24;
    put32(t, 7341 + row / 4096); /* t_xmin */
    put32(t + 12, row / 48);     /* t_ctid */
    t[18] = 6;                   /* t_infomask2: attributes */
    t[21] = 9;                   /* t_infomask: xmin committed */
    t[22] = 24;                  /* t_hoff */
    put32(t + at, row);
    for (int i = 0; i < 2; i++) {
        uint64_t v = next(seed);
        memcpy(t + at + 8 + 8 * i, &v, 8);
    }
    put32(t + at + 24, 8000 + (uint32_t)(next(seed) % 365)); /* a date */
    at += 29;
    for (uint64_t n = 4 + next(seed) % 7; n > 0; n--) {
        const char *word = words[next(seed) % (sizeof(words) / sizeof(words[0]))];
        size_t len = strlen(word);
        memcpy(t + at, word, len);
        t[at + len] = ' ';
        at += (unsigned)len + 1;
    }
    return (at + 7) & ~7u;
}

/* A page as a heap has them (src/include/storage/bufpage.h), so that it compresses like one. */
static void
fill_page(uint8_t *page, uint32_t number, uint64_t *seed)
{
    unsigned lower = 24, upper = BLOCK;
    uint8_t tuple[256];
    uint64_t lsn = (uint64_t)number * 8800 + next(seed) % 8192;
    memset(page, 0, BLOCK);
    for (uint32_t row = number * 64;; row++) {
        memset(tuple, 0, sizeof(tuple));
        unsigned len = fill_tuple(tuple, row, seed);
        if (lower + 4 + len + 300 > upper) /* some room is left for updates */
            break;
        upper -= len;
        memcpy(page + upper, tuple, len);
        put32(page + lower, upper | 1u << 15 | len << 17);
        lower += 4;
    }
    memcpy(page, &lsn, sizeof(lsn));
    put32(page + 8, (uint32_t)next(seed) & 0xffff); /* pd_checksum */
    put32(page + 12, lower | upper << 16);
    put32(page + 16, BLOCK | (BLOCK | 4) << 16);
}

static void
write_pages(const char *path, uint64_t bytes, uint64_t *seed)
{
    static uint8_t buf[1u << 20];
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    for (uint32_t page = 0; fd >= 0 && bytes > 0;) {
        size_t n = bytes < sizeof(buf) ? bytes : sizeof(buf);
        for (size_t at = 0; at < n; at += BLOCK)
            fill_page(buf + at, page++, seed);
        if (write(fd, buf, n) != (ssize_t)n)
            break;
        bytes -= n;
    }
    if (fd < 0 || bytes > 0) {
        perror(path);
        _exit(1);
    }
    close(fd);
}

static void
make(const char *dir, unsigned mb)
{
    char path[4096];
    uint64_t seed = 88172645463325252ull;
    static const char *const dirs[] = {"", "/base", "/base/5", "/global"};
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof(path), "%s%s", dir, dirs[i]);
        mkdir(path, 0700);
    }
    for (unsigned i = 0; mb > 0; i++) {
        unsigned n = mb < SEGMENT_MB ? mb : SEGMENT_MB;
        snprintf(path, sizeof(path), i ? "%s/base/5/16384.%u" : "%s/base/5/16384", dir, i);
        write_pages(path, (uint64_t)n << 20, &seed);
        mb -= n;
    }
    for (unsigned i = 0; i < SMALL_FILES; i++) {
        snprintf(path, sizeof(path), "%s/base/5/%u", dir, 1000 + i);
        write_pages(path, (uint64_t)BLOCK * (1 + i % 4), &seed);
    }
}

static void
spoil(const char *dir, uint64_t ppm, uint64_t seed)
{
    for (unsigned i = 0;; i++) {
        char path[4096];
        struct stat st;
        uint8_t block[BLOCK];
        snprintf(path, sizeof(path), i ? "%s/base/5/16384.%u" : "%s/base/5/16384", dir, i);
        int fd = open(path, O_WRONLY);
        if (fd < 0 || fstat(fd, &st) != 0)
            return;
        uint64_t blocks = (uint64_t)st.st_size / BLOCK;
        for (uint64_t n = blocks * ppm / 1000000; n > 0; n--) {
            uint64_t at = next(&seed) % blocks;
            fill_page(block, (uint32_t)at, &seed);
            if (pwrite(fd, block, BLOCK, (off_t)(at * BLOCK)) != BLOCK)
                perror(path);
        }
        fsync(fd);
        close(fd);
    }
}

static void *
kill_at_90(void *arg)
{
    struct patch_progress *p = arg;
    while (atomic_load(&p->bytes_total) == 0 || p->bytes_done < p->bytes_total / 10 * 9)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    kill(getpid(), SIGKILL);
    return NULL;
}

static int
run(enum patch_type type, int argc, char **argv)
{
    struct patch_progress p = {0};
    struct child_way way;
    struct remote_ssh ssh;
    /* As after a clean stop: what was written to the target was flushed. */
    struct patch_spec spec = {.type = type,
                              .source_dir = argv[2],
                              .target_dir = argv[3],
                              .target_flushed = true,
                              .threads = argc > 4 ? atoi(argv[4]) : 0,
                              .progress = &p};
    struct err e = {0};
    struct timespec from;
    struct timespec to;
    struct rusage use;
    signal(SIGPIPE, SIG_IGN);
    if (argc > 5) {
        bool far = argc == 7;
        child_way_init(&way, (const char *const *)argv + 5);
        remote_ssh_init(&ssh, argv[5], NULL);
        ssh.program = argv[6];
        struct remote_blocks what = {.way = far ? &ssh.way : &way.way, .spec = &spec};
        if (remote_blocks_new(&spec.source, &what, &e) != 0)
            return 1;
    }
    pthread_t killer;
    if (strcmp(argv[1], "killed") == 0)
        pthread_create(&killer, NULL, kill_at_90, &p);
    clock_gettime(CLOCK_MONOTONIC, &from);
    if (patch_run(&spec, &e) != 0) {
        fprintf(stderr, "%s\n", e.message);
        return 1;
    }
    clock_gettime(CLOCK_MONOTONIC, &to);
    getrusage(RUSAGE_SELF, &use);
    if (spec.source)
        spec.source->free(spec.source);
    printf("%.3f s  total %llu  different %llu  written %llu  moved %llu  user %ld.%02ld  sys "
           "%ld.%02ld  rss %ld "
           "KiB\n",
           (double)(to.tv_sec - from.tv_sec) + (double)(to.tv_nsec - from.tv_nsec) / 1e9,
           (unsigned long long)p.bytes_total, (unsigned long long)p.bytes_different,
           (unsigned long long)p.bytes_written, (unsigned long long)p.bytes_moved,
           use.ru_utime.tv_sec, use.ru_utime.tv_usec / 10000, use.ru_stime.tv_sec,
           use.ru_stime.tv_usec / 10000, use.ru_maxrss);
    return 0;
}

int
main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[1], "make") == 0) {
        make(argv[2], (unsigned)atoi(argv[3]));
        return 0;
    }
    if (argc == 5 && strcmp(argv[1], "spoil") == 0) {
        spoil(argv[2], strtoull(argv[3], NULL, 10), strtoull(argv[4], NULL, 10));
        return 0;
    }
    if (argc >= 4) {
        bool compares = strcmp(argv[1], "differential") == 0;
        enum patch_type type = compares ? PATCH_DIFFERENTIAL : PATCH_FULL;
        int code = run(type, argc, argv);
        fflush(NULL);
        _exit(code); /* threads of ssh sessions that are being closed may live a little longer */
    }
    fprintf(stderr, "usage: patch_bench make|spoil|full|differential ...\n");
    return 2;
}
