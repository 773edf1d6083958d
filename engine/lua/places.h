/*
 * Where the program and its scripts are. Private to engine/lua.
 */
#ifndef MOONRISE_ENGINE_LUA_PLACES_H
#define MOONRISE_ENGINE_LUA_PLACES_H

/* The file of the program itself: this process's, or, when the engine was loaded as a module, the one
 * beside the module. Freed with free(). */
char *places_executable(void);

/* The folder of the packaged runbooks for an executable: PREFIX/share/moonrise/scripts beside
 * PREFIX/bin, the source tree a build folder is in, else where `make install` puts them. */
char *places_scripts(const char *executable);

#endif
