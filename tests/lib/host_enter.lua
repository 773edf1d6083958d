--- Runs a program on a test host (tests/lib/hosts.lua), and ends as it does.
---
---     luajit tests/lib/host_enter.lua PID DIR PROGRAM ARGUMENTS...
---
--- PID is the host's first process, DIR the program's working directory there.
local ffi = require("ffi")
local bit = require("bit")
local namespace = require("tests.lib.namespace")

ffi.cdef [[
int fork(void);
int waitpid(int pid, int *status, int options);
int execvp(const char *file, const char *const *argv);
void _exit(int code);
int raise(int signal);
]]

local function execute(words)
    local argv = ffi.new("const char *[?]", #words + 1, words)
    argv[#words] = nil
    ffi.C.execvp(words[1], argv)
    io.stderr:write(words[1], ": ", ffi.string(ffi.C.strerror(ffi.errno())), "\n")
    ffi.C._exit(127)
end

local words = { unpack(arg, 3) }
namespace.join(tonumber(arg[1]))
assert(ffi.C.chdir(arg[2]) == 0, "there is no directory " .. arg[2])
namespace.drop_rights()
local child = ffi.C.fork()
if child == 0 then
    execute(words)
end
local status = ffi.new("int[1]")
assert(ffi.C.waitpid(child, status, 0) == child, "waitpid")
local signal = bit.band(status[0], 0x7f)
-- Ended by a signal, as the program was; one with a core file would leave another.
if signal == 9 or signal == 15 then
    ffi.C.raise(signal)
end
os.exit(signal > 0 and 128 + signal or bit.rshift(status[0], 8))
