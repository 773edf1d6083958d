--- The first process of a test host (tests/lib/hosts.lua): makes its files what a host's are,
--- starts its sshd, and then only sees to orphans. Whatever runs on the host dies with it.
---
---     luajit tests/lib/host_first.lua BOOT
---
--- BOOT is a file that returns {name, root, binds = {{from, to}, ...}, programs = {what is in the
--- PATH there beside the machine's}, sshd = command line}.
local ffi = require("ffi")
local namespace = require("tests.lib.namespace")

ffi.cdef [[
int sethostname(const char *name, size_t length);
int waitpid(int pid, int *status, int options);
int poll(void *files, unsigned long count, int timeout_ms);
]]

local NOBODY_MS = 100

-- What is the machine's: programs and their libraries, devices; and what a host has beside them.
local LAYOUT = [[
set -eu
root=$1
cd "$root"
for name in bin lib lib32 lib64 libx32 sbin; do
    [ ! -L "/$name" ] || cp -P "/$name" .
done
mkdir etc dev proc run sys tmp usr usr/local usr/local/bin var var/tmp data home
for dir in /usr/*; do
    if [ -L "$dir" ]; then cp -P "$dir" usr; elif [ "$dir" != /usr/local ]; then
        mkdir -p ".$dir" && echo "$dir"
    fi
done
]]

local function quote(text)
    return "'" .. text:gsub("'", "'\\''") .. "'"
end

local function lay_out(root)
    local pipe = assert(io.popen(("sh -c %s sh %s || echo failed"):format(quote(LAYOUT),
        quote(root))))
    for dir in pipe:lines() do
        assert(dir ~= "failed", "no directories for a host in " .. root)
        namespace.bind_tree(dir, root .. dir)
    end
    pipe:close()
    for _, dir in ipairs({ "/etc", "/dev" }) do
        namespace.bind_tree(dir, root .. dir)
    end
    namespace.proc(root .. "/proc")
    namespace.tmpfs(root .. "/dev/shm", "256m")
    namespace.tmpfs(root .. "/tmp", "256m")
end

local function mount(boot)
    namespace.tmpfs(boot.root, "16m")
    lay_out(boot.root)
    for _, bind in ipairs(boot.binds) do
        local to = boot.root .. bind[2]
        assert(os.execute(("test -e %s || mkdir -p %s"):format(quote(to), quote(to))) == 0)
        namespace.bind_tree(bind[1], to)
    end
    for _, program in ipairs(boot.programs) do
        assert(os.execute(("ln -s %s %s/usr/local/bin"):format(quote(program),
            quote(boot.root))) == 0)
    end
    namespace.become_root(boot.root)
end

local boot = dofile(arg[1])
mount(boot)
assert(ffi.C.sethostname(boot.name, #boot.name) == 0, "sethostname")
namespace.drop_rights()
assert(os.execute(boot.sshd) == 0, "sshd does not start")
io.stdout:write("up\n")
io.stdout:flush()
while true do
    if ffi.C.waitpid(-1, nil, 0) < 0 then
        ffi.C.poll(nil, 0, NOBODY_MS)
    end
end
