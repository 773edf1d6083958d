--- Mounts and networks for specs, without root: this process moves into a user and a mount
--- namespace of its own, and all that it starts from then on sees what it mounts there; nobody else
--- does.
---
---     local ok, why = namespace.enter()    -- in the setup, before anything is started
---     namespace.tmpfs(dir, "40m")
---     namespace.unmount(dir)               -- in the teardown

local bit = require("bit")
local ffi = require("ffi")

ffi.cdef [[
int unshare(int flags);
int setns(int fd, int kind);
int mount(const char *from, const char *to, const char *kind, unsigned long flags,
          const char *data);
int umount2(const char *path, int flags);
int open(const char *path, int flags, ...);
int close(int fd);
int chdir(const char *path);
int chroot(const char *path);
int capget(void *header, void *data);
int capset(void *header, const void *data);
int getpid(void);
int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d);
char *strerror(int number);
]]

local M = {}

-- linux/sched.h, sys/mount.h
local NEW_USER, NEW_MOUNTS, NEW_NETWORK = 0x10000000, 0x20000, 0x40000000
local READ_ONLY, NO_SUID, NO_DEV, NO_EXEC = 1, 2, 4, 8
local REMOUNT, BIND, MOVE, RECURSIVE, PRIVATE = 32, 4096, 8192, 16384, 0x40000
local DETACH = 2
local CLOSE_ON_EXEC = 0x80000
-- linux/capability.h, linux/prctl.h
local CAPABILITIES_VERSION = 0x20080522
local AMBIENT, AMBIENT_RAISE, AMBIENT_CLEAR_ALL = 47, 2, 4

--- Rights for M.with_rights, by their names in linux/capability.h.
M.rights = { NET_ADMIN = 12, NET_RAW = 13, SYS_CHROOT = 18, SYS_PTRACE = 19, SYS_ADMIN = 21 }

local entered

local function failed(what)
    return what .. ": " .. ffi.string(ffi.C.strerror(ffi.errno()))
end

local function must(what, result)
    if result ~= 0 then
        error(failed(what), 3)
    end
end

local function id(option)
    return tonumber(assert(io.popen("id " .. option)):read("*l"))
end

local function write(path, text)
    local file = assert(io.open(path, "w"))
    file:write(text)
    return assert(file:close())
end

-- Nobody's mounts reach us, and ours nobody.
local function alone()
    return ffi.C.mount("none", "/", nil, RECURSIVE + PRIVATE, nil)
end

--- Moves into namespaces of its own, once; user and group stay what they are.
---@return boolean entered
---@return string? why it cannot be done here
function M.enter()
    if entered then
        return true
    end
    local user, group = id("-u"), id("-g")
    if ffi.C.unshare(NEW_USER + NEW_MOUNTS) ~= 0 then
        return false, failed("no namespaces for an ordinary user here")
    end
    write("/proc/self/setgroups", "deny")
    write("/proc/self/uid_map", ("%d %d 1"):format(user, user))
    write("/proc/self/gid_map", ("%d %d 1"):format(group, group))
    if alone() ~= 0 then
        return false, failed("no mounts in a namespace here")
    end
    entered = true
    return true
end

--- Mounts an empty file system of its own size, or gives a mounted one another size.
---@param path string
---@param size string e.g. "40m"
---@param again? boolean
function M.tmpfs(path, size, again)
    local data = "mode=0700,size=" .. size
    must("mount " .. path, ffi.C.mount("spec", path, "tmpfs", again and REMOUNT or 0, data))
end

---@param from string
---@param to string
function M.bind(from, to)
    must("bind " .. to, ffi.C.mount(from, to, nil, BIND, nil))
end

--- Likewise, with all that is mounted below it.
---@param from string
---@param to string
function M.bind_tree(from, to)
    must("bind " .. to, ffi.C.mount(from, to, nil, BIND + RECURSIVE, nil))
end

--- Mounts what tells of the processes of this process's namespace.
---@param path string
function M.proc(path)
    must("proc " .. path, ffi.C.mount("proc", path, "proc", NO_SUID + NO_DEV + NO_EXEC, nil))
end

--- Moves this process into another one's namespaces; its children are in that one's for processes.
---@param pid integer
function M.join(pid)
    -- What is opened by a path is opened before the mounts change.
    local spaces = {}
    for _, kind in ipairs({ "pid", "ipc", "uts", "net", "mnt" }) do
        local space = ffi.C.open(("/proc/%d/ns/%s"):format(pid, kind), CLOSE_ON_EXEC)
        assert(space >= 0, failed("open the namespaces of process " .. pid))
        table.insert(spaces, space)
    end
    for _, space in ipairs(spaces) do
        must("setns", ffi.C.setns(space, 0))
        ffi.C.close(space)
    end
end

--- Makes what is mounted at a directory the root of this mount namespace.
---@param path string
function M.become_root(path)
    must("chdir " .. path, ffi.C.chdir(path))
    must("move " .. path, ffi.C.mount(".", "/", nil, MOVE, nil))
    must("chroot " .. path, ffi.C.chroot("."))
    must("chdir /", ffi.C.chdir("/"))
end

--- Makes what is in a directory read-only, as a file system with errors becomes.
---@param path string
function M.read_only(path)
    M.bind(path, path)
    -- What the file system around it forbids must be forbidden here, too.
    for _, more in ipairs({ 0, NO_SUID + NO_DEV, NO_SUID + NO_DEV + NO_EXEC }) do
        local flags = bit.bor(REMOUNT, BIND, READ_ONLY, more)
        if ffi.C.mount(nil, path, nil, flags, nil) == 0 then
            return
        end
    end
    error(failed("read-only " .. path), 2)
end

---@param path string
function M.unmount(path)
    must("unmount " .. path, ffi.C.umount2(path, DETACH))
end

--- Runs a function whose mounts only it sees, and what it starts.
---@param fn function
function M.apart(fn)
    local here = assert(io.popen("pwd -P")):read("*l")
    local back = ffi.C.open("/proc/self/ns/mnt", CLOSE_ON_EXEC)
    assert(back >= 0, failed("open"))
    must("unshare", ffi.C.unshare(NEW_MOUNTS))
    must("private", alone())
    local ok, message = pcall(fn)
    must("setns", ffi.C.setns(back, NEW_MOUNTS))
    -- It leads to the root directory of the namespace.
    must("chdir " .. here, ffi.C.chdir(here))
    ffi.C.close(back)
    assert(ok, message)
end

--- Moves into a network of its own in which there is nobody yet.
---@return integer network for M.inside and M.network_path
function M.new_network()
    must("unshare", ffi.C.unshare(NEW_NETWORK))
    local network = ffi.C.open("/proc/self/ns/net", CLOSE_ON_EXEC)
    assert(network >= 0, failed("open"))
    return network
end

--- Makes a network in which there is nobody yet, and stays where it is.
---@return integer network
function M.other_network()
    local back = ffi.C.open("/proc/self/ns/net", CLOSE_ON_EXEC)
    assert(back >= 0, failed("open"))
    local network = M.new_network()
    must("setns", ffi.C.setns(back, NEW_NETWORK))
    ffi.C.close(back)
    return network
end

--- Lets go of a network: it ends with the last process in it.
---@param network integer
function M.leave(network)
    ffi.C.close(network)
end

--- Runs a function in another network; what it starts there stays there.
---@param network integer
---@param fn fun(): any
---@return any
function M.inside(network, fn)
    local back = ffi.C.open("/proc/self/ns/net", CLOSE_ON_EXEC)
    assert(back >= 0, failed("open"))
    must("setns", ffi.C.setns(network, NEW_NETWORK))
    local ok, result = pcall(fn)
    must("setns", ffi.C.setns(back, NEW_NETWORK))
    ffi.C.close(back)
    assert(ok, result)
    return result
end

-- What is executed by an ordinary user has no rights, unless it inherits them.
local function bequeath(rights)
    local header = ffi.new("uint32_t[2]", CAPABILITIES_VERSION, 0)
    local sets = ffi.new("uint32_t[6]") -- effective, permitted, inheritable; twice 32 bits
    must("capget", ffi.C.capget(header, sets))
    sets[2] = 0
    for _, right in ipairs(rights) do
        sets[2] = bit.bor(sets[2], bit.lshift(1, right))
    end
    must("capset", ffi.C.capset(header, sets))
    must("prctl", ffi.C.prctl(AMBIENT, AMBIENT_CLEAR_ALL, 0, 0, 0))
    for _, right in ipairs(rights) do
        must("prctl", ffi.C.prctl(AMBIENT, AMBIENT_RAISE, right, 0, 0))
    end
end

--- Runs a function; what it executes has these rights in the namespaces of this process.
---@param rights integer[]
---@param fn fun(): any
---@return any
function M.with_rights(rights, fn)
    bequeath(rights)
    local ok, result = pcall(fn)
    bequeath({})
    assert(ok, result)
    return result
end

--- What this process executes from now on has no rights.
function M.drop_rights()
    bequeath({})
end

--- Runs commands of ip in the network where this process is.
---@param commands string[]
---@return boolean done
---@return string? why not
function M.ip(commands)
    local file = os.tmpname()
    write(file, table.concat(commands, "\n") .. "\n")
    local said = M.with_rights({ M.rights.NET_ADMIN, M.rights.SYS_PTRACE }, function()
        local pipe = assert(io.popen(("PATH=$PATH:/sbin:/usr/sbin ip -batch %s 2>&1 || echo failed")
            :format(file)))
        local text = pipe:read("*a")
        pipe:close()
        return text
    end)
    os.remove(file)
    return not said:match("failed\n$"), said
end

--- What ip calls a network.
---@param network integer
---@return string path
function M.network_path(network)
    return ("/proc/%d/fd/%d"):format(ffi.C.getpid(), network)
end

return M
