--- Before any spec: Lua is interpreted, as in the program itself (engine/lua/script.c), and
--- programs that a spec starts do not get the sanitizer that was preloaded for the module.

jit.off()

local ffi = require("ffi")

ffi.cdef("int unsetenv(const char *name);")
ffi.C.unsetenv("LD_PRELOAD")
