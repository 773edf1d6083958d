#include "places.h"

#include "moonrise/base/path.h"
#include "moonrise/base/str.h"

#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef MOONRISE_PREFIX
#define MOONRISE_PREFIX "/usr/local"
#endif

/* In the folder of the module's file, or /proc/self/exe when this code is part of the program. */
char *
places_executable(void)
{
    Dl_info info;
    char *file = NULL;
    if (dladdr((void *)(uintptr_t)places_executable, &info) && info.dli_fname) {
        const char *dot = strrchr(info.dli_fname, '.');
        if (dot && strcmp(dot, ".so") == 0 && path_canonical(&file, info.dli_fname, NULL) == 0) {
            char *dir = path_dir(file);
            char *program = path_join(dir, "moonrise");
            free(dir);
            free(file);
            return program;
        }
    }
    if (path_canonical(&file, "/proc/self/exe", NULL) == 0)
        return file;
    return mem_strdup(MOONRISE_PREFIX "/bin/moonrise");
}

char *
places_scripts(const char *executable)
{
    static const char *const candidates[] = {"../share/moonrise/scripts", "../scripts",
                                             "../../scripts"};
    char *dir = path_dir(executable), *found = NULL;
    for (size_t i = 0; i < sizeof(candidates) / sizeof(candidates[0]) && !found; i++) {
        char *folder = mem_printf("%s/%s", dir, candidates[i]);
        char *entry = mem_printf("%s/lib/runbook.lua", folder);
        if (access(entry, R_OK) == 0)
            path_canonical(&found, folder, NULL);
        free(entry);
        free(folder);
    }
    free(dir);
    return found ? found : mem_strdup(MOONRISE_PREFIX "/share/moonrise/scripts");
}
