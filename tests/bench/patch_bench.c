/*
 * Times a patch of directories, for tests/bench and by hand:
 *
 *   patch_bench make DIR MB         fills DIR like a data directory: segments of 1 GB and small files
 *   patch_bench spoil DIR PPM SEED  changes PPM millionths of the 8 KiB blocks of its large files
 *   patch_bench full|differential SOURCE TARGET [THREADS]
 *                                   one patch: prints seconds, bytes, the largest memory used
 */
#include "moonrise/base/err.h"
#include "moonrise/patch/patch.h"

#include <dirent.h>
#include <fcntl.h>
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
write_random(const char *path, uint64_t bytes, uint64_t *seed)
{
    static uint64_t buf[(1u << 20) / 8];
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    while (fd >= 0 && bytes > 0) {
        size_t n = bytes < sizeof(buf) ? bytes : sizeof(buf);
        for (size_t i = 0; i < n / 8; i++)
            buf[i] = next(seed);
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
        write_random(path, (uint64_t)n << 20, &seed);
        mb -= n;
    }
    for (unsigned i = 0; i < SMALL_FILES; i++) {
        snprintf(path, sizeof(path), "%s/base/5/%u", dir, 1000 + i);
        write_random(path, (uint64_t)BLOCK * (1 + i % 4), &seed);
    }
}

static void
spoil(const char *dir, uint64_t ppm, uint64_t seed)
{
    for (unsigned i = 0;; i++) {
        char path[4096];
        struct stat st;
        uint64_t block[BLOCK / 8];
        snprintf(path, sizeof(path), i ? "%s/base/5/16384.%u" : "%s/base/5/16384", dir, i);
        int fd = open(path, O_WRONLY);
        if (fd < 0 || fstat(fd, &st) != 0)
            return;
        uint64_t blocks = (uint64_t)st.st_size / BLOCK;
        for (uint64_t n = blocks * ppm / 1000000; n > 0; n--) {
            for (size_t k = 0; k < BLOCK / 8; k++)
                block[k] = next(&seed);
            if (pwrite(fd, block, BLOCK, (off_t)(next(&seed) % blocks * BLOCK)) != BLOCK)
                perror(path);
        }
        fsync(fd);
        close(fd);
    }
}

static int
run(enum patch_type type, const char *source, const char *target, int threads)
{
    struct patch_progress p = {0};
    /* As after a clean stop: what was written to the target was flushed. */
    struct patch_spec spec = {.type = type,
                              .source_dir = source,
                              .target_dir = target,
                              .target_flushed = true,
                              .threads = threads,
                              .progress = &p};
    struct err e = {0};
    struct timespec from;
    struct timespec to;
    struct rusage use;
    clock_gettime(CLOCK_MONOTONIC, &from);
    if (patch_run(&spec, &e) != 0) {
        fprintf(stderr, "%s\n", e.message);
        return 1;
    }
    clock_gettime(CLOCK_MONOTONIC, &to);
    getrusage(RUSAGE_SELF, &use);
    printf(
        "%.3f s  total %llu  different %llu  written %llu  user %ld.%02ld  sys %ld.%02ld  rss %ld "
        "KiB\n",
        (double)(to.tv_sec - from.tv_sec) + (double)(to.tv_nsec - from.tv_nsec) / 1e9,
        (unsigned long long)p.bytes_total, (unsigned long long)p.bytes_different,
        (unsigned long long)p.bytes_written, use.ru_utime.tv_sec, use.ru_utime.tv_usec / 10000,
        use.ru_stime.tv_sec, use.ru_stime.tv_usec / 10000, use.ru_maxrss);
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
    if (argc == 4 || argc == 5) {
        enum patch_type type = strcmp(argv[1], "full") == 0 ? PATCH_FULL : PATCH_DIFFERENTIAL;
        return run(type, argv[2], argv[3], argc == 5 ? atoi(argv[4]) : 0);
    }
    fprintf(stderr, "usage: patch_bench make|spoil|full|differential ...\n");
    return 2;
}
