--- Before any spec: programs that a spec starts do not get the sanitizer that was preloaded for
--- the module.

local ffi = require("ffi")

ffi.cdef("int unsetenv(const char *name);")
ffi.C.unsetenv("LD_PRELOAD")
