/*
 * A throwaway directory, and shell commands in it, for units. A real server too, where a unit wants what
 * PostgreSQL itself has written. Included by units.
 */
#ifndef MOONRISE_TESTS_TMPDIR_H
#define MOONRISE_TESTS_TMPDIR_H

#include "moonrise/base/str.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

/* A new directory; free with tmpdir_remove. */
static inline char *
tmpdir_make(void)
{
    static int made;
    const char *base = getenv("TMPDIR");
    char *dir = NULL;
    int rc;
    do {
        free(dir);
        dir = mem_printf("%s/unit-%d-%d", base ? base : "/tmp", (int)getpid(), made++);
        rc = mkdir(dir, 0700);
    } while (rc != 0 && errno == EEXIST); /* of an earlier process */
    assert_int_equal(rc, 0);
    return dir;
}

/* The output of a shell command, in which PG is PostgreSQL's bin directory and DIR is `dir`; the test fails
 * when the command does. Free with free(). */
static inline char *
tmpdir_shell(const char *dir, const char *command)
{
    char *line = mem_printf("exec 2>&1; export LC_ALL=C DIR='%s'; cd /; PG=${PG_BIN:-$(ls -d "
                            "/usr/lib/postgresql/*/bin | sort -V | tail -n 1)}; %s",
                            dir, command);
    FILE *pipe = popen(line, "re");
    assert_non_null(pipe);
    struct str out = STR_INIT;
    char chunk[4096];
    size_t n;
    while ((n = fread(chunk, 1, sizeof(chunk), pipe)) > 0)
        str_append(&out, chunk, n);
    int status = pclose(pipe);
    if (status != 0)
        fail_msg("%s: status %d: %s", command, status, out.data);
    free(line);
    return str_take(&out);
}

static inline void
tmpdir_do(const char *dir, const char *command)
{
    free(tmpdir_shell(dir, command));
}

static inline void
tmpdir_write(const char *dir, const char *name, const char *text)
{
    char *path = mem_printf("%s/%s", dir, name);
    FILE *f = fopen(path, "we");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, strlen(text), f), strlen(text));
    fclose(f);
    free(path);
}

static inline void
tmpdir_remove(char *dir)
{
    tmpdir_do(dir, "rm -rf \"$DIR\"");
    free(dir);
}

/* For a setup: a new directory is the state of the test. */
static inline int
tmpdir_setup(void **state)
{
    *state = tmpdir_make();
    return 0;
}

static inline int
tmpdir_teardown(void **state)
{
    tmpdir_remove(*state);
    return 0;
}

/* Makes DIR/data, a server that listens on a socket in DIR only. */
static inline void
tmpdir_initdb(const char *dir, const char *options)
{
    char *command = mem_printf("$PG/initdb -D $DIR/data -U tester -A trust -N -E UTF8 %s", options);
    tmpdir_do(dir, command);
    free(command);
    tmpdir_do(dir, "printf \"listen_addresses = ''\\nunix_socket_directories = '$DIR'\\n"
                   "port = 5432\\nmax_connections = 23\\nautovacuum = off\\n\" "
                   ">>$DIR/data/postgresql.conf");
}

#define TMPDIR_START                                                                               \
    "$PG/pg_ctl -D $DIR/data -l $DIR/log -w start >/dev/null || { cat $DIR/log; false; }"
#define TMPDIR_STOP "$PG/pg_ctl -D $DIR/data -w -m fast stop >/dev/null"
#define TMPDIR_PSQL "$PG/psql -h $DIR -p 5432 -U tester -d postgres -AtX -v ON_ERROR_STOP=1 "

/* Stops the server if one runs, so that a failed test leaves none. */
static inline void
tmpdir_stop(const char *dir)
{
    tmpdir_do(dir, "if [ -f $DIR/data/postmaster.pid ]; then "
                   "$PG/pg_ctl -D $DIR/data -m immediate -w stop; fi >/dev/null");
}

#endif
