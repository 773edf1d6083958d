/*
 * The program: `moonrise COMMAND`, or one of Greenplum's names that stand for a command.
 */
#include "moonrise/agent/agent.h"
#include "moonrise/base/core.h"
#include "moonrise/base/version.h"
#include "moonrise/conn/conn.h"
#include "moonrise/lua/script.h"

#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILES_WANTED 65536

/* What installed names like gpstate begin with; another one lets them live beside a real Greenplum. */
#ifndef MOONRISE_NAME_PREFIX
#define MOONRISE_NAME_PREFIX "gp"
#endif

/* A descriptor below 3 that is closed would go to the first file that is opened, and take its output. */
static void
settle_descriptors(void)
{
    int fd;
    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0)
        close(fd);
}

/* A patch of many instances has many files open; the usual 1024 are for programs that use select(). */
static void
settle_limits(void)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) != 0 || files.rlim_cur >= FILES_WANTED)
        return;
    files.rlim_cur = files.rlim_max < FILES_WANTED ? files.rlim_max : FILES_WANTED;
    setrlimit(RLIMIT_NOFILE, &files);
}

/* What the caller's environment says must change nothing: not where libpq connects, not the language
 * of messages that are read by the program, not the mode of files. */
static void
settle_environment(void)
{
    conn_clear_environment();
    setenv("LC_ALL", "C", 1);
    unsetenv("LANGUAGE");
    umask(077);
    signal(SIGPIPE, SIG_IGN);
}

static bool
is_verbose(int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "-v") == 0 || strcmp(argv[i], "--verbose") == 0)
            return true;
    return false;
}

static int
run(int argc, char **argv)
{
    const char *slash = argc > 0 ? strrchr(argv[0], '/') : NULL;
    const char *base = slash ? slash + 1 : argc > 0 ? argv[0] : "moonrise";
    const size_t prefix = strlen(MOONRISE_NAME_PREFIX);
    struct script_spec spec = {.verbose = is_verbose(argc, argv)};

    settle_descriptors();
    core_hide();
    settle_environment();
    settle_limits();
    if (strncmp(base, MOONRISE_NAME_PREFIX, prefix) == 0 && base[prefix]) {
        spec.name = base + prefix;
        spec.invoked = base;
        spec.argc = argc - 1;
        spec.argv = argv + 1;
        return script_main(&spec);
    }
    if (argc > 1 && strcmp(argv[1], "--version") == 0)
        return printf("moonrise " MOONRISE_VERSION "\n") < 0;
    if (argc > 2 && strcmp(argv[1], "agent") == 0 && strcmp(argv[2], "--feed") == 0)
        return feeder_main();
    if (argc == 4 && strcmp(argv[1], "agent") == 0 && strcmp(argv[2], "--relay") == 0)
        return relay_main(argv[3]);
    if (argc > 1 && strcmp(argv[1], "agent") == 0)
        return agent_main();
    if (argc > 1) {
        spec.name = argv[1];
        spec.argc = argc - 2;
        spec.argv = argv + 2;
    }
    return script_main(&spec);
}

/* Threads may still be closing their ssh sessions, and a host that does not answer holds them up. exit()
 * would wait for them first (wire/ssh.c); a program that is told to end ends. */
int
main(int argc, char **argv)
{
    int code = run(argc, argv);
    fflush(NULL);
    _exit(code);
}
