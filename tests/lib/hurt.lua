--- Ways of hurting an instance, for specs. Each takes a server of tests/lib/cluster.lua or pg.lua
--- and gives a function that undoes it; what cannot be undone gives nothing.
---
---     local thaw = hurt.stop_postmaster(cluster:primary(0))
---     ...
---     thaw()    -- also when the processes are gone meanwhile

local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local M = {}

local function lines(command)
    local pipe, list = assert(io.popen(command)), {}
    for line in pipe:lines() do
        list[#list + 1] = line
    end
    pipe:close()
    return list
end

--- The children of a process whose command line matches a pattern.
---@param pid integer
---@param pattern? string default: all of them
---@return integer[] pids
function M.children(pid, pattern)
    local pids = {}
    for _, line in ipairs(lines("ps -ww -o pid=,args= --ppid " .. pid)) do
        local child, title = line:match("^%s*(%d+)%s+(.*)$")
        if child and (not pattern or title:find(pattern)) then
            pids[#pids + 1] = tonumber(child)
        end
    end
    return pids
end

--- Whether a process is stopped, or gone.
---@param pid integer
---@return boolean
---@return string stat
function M.stands_still(pid)
    local stat = place_of.read(("/proc/%d/stat"):format(pid)) or ") T"
    return stat:match(".*%) [TtZX]") ~= nil, stat
end

local function stand_still(pids)
    for _, pid in ipairs(pids) do
        local still, stat = M.stands_still(pid)
        if not still then
            return false, stat
        end
    end
    return true
end

--- Stops processes (SIGSTOP); waits until none of them runs any more.
---@param pids integer[]
---@return fun() thaw lets them go on
function M.freeze(pids)
    assert(#pids > 0, "no process to stop")
    for _, pid in ipairs(pids) do
        assert(place_of.kill(pid, "STOP"), "process " .. pid .. " is gone")
    end
    wait.eventually("the processes to stand still", wait.SOON_S, function()
        return stand_still(pids)
    end)
    return function()
        for _, pid in ipairs(pids) do
            place_of.kill(pid, "CONT")
        end
    end
end

local function postmaster(server)
    local pid = server:pid()
    return pid or error(server.name .. " has no postmaster", 3)
end

--- Kills the postmaster; its children end by themselves.
function M.kill(server)
    server:kill()
end

--- Stops the postmaster alone: the sessions that there are go on, and go on committing.
---@return fun() thaw
function M.stop_postmaster(server)
    return M.freeze({ postmaster(server) })
end

--- Stops a process and each of its children.
---@param pid integer
---@return fun() thaw
function M.freeze_tree(pid)
    local thaw = M.freeze({ pid })
    local pids = M.children(pid)
    local thaw_children = #pids > 0 and M.freeze(pids) or function() end
    return function()
        thaw_children()
        thaw()
    end
end

--- Stops the postmaster and each of its children: nothing answers any more.
---@return fun() thaw
function M.stop_tree(server)
    return M.freeze_tree(postmaster(server))
end

--- Stops one kind of a server's processes, by their titles: "walreceiver", "startup",
--- "checkpointer", "walsender".
---@param title string
---@return fun() thaw
function M.stop_process(server, title)
    local pids = wait.eventually(("%s's %s"):format(server.name, title), wait.SOON_S, function()
        local found = M.children(postmaster(server), title)
        return #found > 0 and found
    end)
    return M.freeze(pids)
end

--- Stops a mirror's receiver: it streams, it is in sync, and confirms nothing any more.
---@return fun() thaw
function M.freeze_receiver(mirror)
    return M.stop_process(mirror, "walreceiver")
end

--- Ends a mirror's receiver; the mirror starts another one.
function M.drop_receiver(mirror)
    for _, pid in ipairs(M.children(postmaster(mirror), "walreceiver")) do
        place_of.kill(pid, "TERM")
    end
end

--- Kills the postmaster while a backend is stopped, which outlives it so.
---@return integer pid of that backend
function M.leave_backend(server)
    local session = server:session()
    local pid = tonumber((session:ask("select pg_backend_pid()")))
    M.freeze({ pid })
    server:kill()
    return pid
end

--- Takes every connection that there is, the superusers' reserved ones too, by idle sessions.
---@return fun() undo
function M.exhaust_connections(server)
    local sessions = {}
    local wanted = tonumber(server:value("current_setting('max_connections')"))
    for _ = 1, wanted + 2 do
        table.insert(sessions, server:session())
    end
    wait.eventually(server.name .. " to be full", wait.SOON_S, function()
        local rows, message = server:try_sql("select 1")
        return not rows and message:find("too many clients", 1, true), message
    end)
    return function()
        for _, session in ipairs(sessions) do
            session:close()
        end
    end
end

-- Lowers a limit of a process, and gives what sets it back to the highest that it may have.
local function limit(server, pid, option, soft)
    local limits = place_of.read(("/proc/%d/limits"):format(pid))
    local most = limits:match(option.row .. "%s+%S+%s+(%S+)")
    local form = "--" .. option.name .. "=%s:"
    server.place:must({ "prlimit", "--pid", tostring(pid), form:format(soft) })
    return function()
        server.place:run({ "prlimit", "--pid", tostring(pid), form:format(most) })
    end
end

--- Forbids the postmaster to start processes, as a system that has no room for them does.
---@return fun() undo
function M.forbid_forks(server)
    return limit(server, postmaster(server), { name = "nproc", row = "Max processes" }, 1)
end

--- Leaves each new process of a server so many bytes beside what its postmaster has: sessions
--- are refused with SQLSTATE 53200, or not even forked.
---@param spare integer
---@return fun() undo
function M.forbid_memory(server, spare)
    local pid = postmaster(server)
    local kilobytes = tonumber(place_of.read(("/proc/%d/status"):format(pid))
        :match("VmSize:%s+(%d+)"))
    return limit(server, pid, { name = "as", row = "Max address space" }, kilobytes * 1024 + spare)
end

--- Takes all the room of a directory's file system, which should be one of its own
--- (tests/lib/namespace.lua).
---@param place table
---@param dir string
---@return fun() undo
function M.fill_disk(place, dir)
    local file = dir .. "/ballast"
    place:run({ "dd", "if=/dev/zero", "of=" .. file, "bs=4k" })
    return function()
        os.remove(file)
    end
end

--- Holds a lock file, as one does who has hung since.
---@param place table
---@param path string
---@return fun() release
function M.hold_lock(place, path)
    local holder = place:start({ "sh", "-c",
        'exec 9>>"$0"; flock 9; echo held; exec tail -f /dev/null', path })
    holder:says("held", wait.SOON_S)
    return function()
        holder:kill("KILL")
    end
end

--- The agents of a program (a watcher) for one host.
---@param pid integer the program's
---@param host string as the catalog has it
---@return integer[] pids
function M.agents(pid, host)
    return M.children(pid, "moonrise agent " .. host:gsub("%p", "%%%0") .. "$")
end

--- Stops a host's agent of a program, and each that the program starts anew: the host does not
--- answer any more.
---@param program table of tests/lib/place.lua
---@param place table
---@param host string as the catalog has it
---@return fun() thaw
function M.stop_agent(program, place, host)
    local holder = place:start({ "env", "-C", place_of.top(), "luajit", "tests/lib/hold_agents.lua",
        tostring(program.pid), host })
    wait.eventually("the agent of " .. host .. " to stand still", wait.SOON_S, function()
        local pids = M.agents(program.pid, host)
        return #pids > 0 and stand_still(pids), holder:output()
    end)
    return function()
        holder:kill("KILL")
        holder:wait(wait.SOON_S)
        for _, pid in ipairs(M.agents(program.pid, host)) do
            place_of.kill(pid, "CONT")
        end
    end
end

return M
