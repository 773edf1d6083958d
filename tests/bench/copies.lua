--- Benchmarks of the patch on gigabytes: against rsync as Greenplum runs it, against pg_basebackup,
--- against a plain O_DIRECT read. Ours and theirs take turns on the same data; the target is reset
--- before each run.
local mr = require("moonrise")
local measure = require("measure")

local M = {}

M.MEGABYTES = 3200
M.RUNS = 3
local CHANGED_PPM = 10000
local run, timed, alternate = measure.run, measure.timed, measure.alternate

--- Where the programs were built.
---@return string dir
function M.build_dir()
    return mr.executable:match("^(.*)/[^/]*$")
end

--- The program that makes directories and times patches of them.
---@return string path
function M.tool()
    return M.build_dir() .. "/bench/patch_bench"
end

local tool = M.tool

--- A source with so much data and a target that is equal to it, both in a directory of the run's.
---@param megabytes integer
---@param fn fun(source: string, target: string, dir: string): any
---@return any results of fn
function M.with_directories(megabytes, fn)
    return measure.with_directory(function(dir)
        run({ tool(), "make", dir .. "/source", tostring(megabytes) })
        mr.check(mr.make_dir(dir .. "/target"))
        run({ tool(), "full", dir .. "/source", dir .. "/target" })
        return fn(dir .. "/source", dir .. "/target", dir)
    end)
end

local function with_directories(fn)
    return M.with_directories(M.MEGABYTES, fn)
end

local function rsync(source, target)
    return timed({ "rsync", "-a", "--checksum", "--delete", source .. "/", target })
end

local function patch(source, target)
    return timed({ tool(), "differential", source, target })
end

--- Raises unless both hold the same files.
---@param source string
---@param target string
function M.check_equal(source, target)
    run({ "diff", "-rq", source, target })
end

-- Takes a directory's files out of the page cache, as far as an ordinary user may.
local function evict(dir)
    run({ "find", dir, "-type", "f", "-exec", "dd", "if={}", "iflag=nocache", "count=0",
        "status=none", ";" })
end

--- Reads directories' files, so that they are in the page cache: what a copy has written past it
--- is not.
---@param ... string
function M.warm(...)
    run({ "sh", "-c", 'find "$@" -type f -exec cat {} + >/dev/null', "sh", ... })
end

--- Changes one block in a hundred.
---@param target string
---@param seed integer
function M.spoil(target, seed)
    run({ tool(), "spoil", target, tostring(CHANGED_PPM), tostring(seed) })
end

local spoil = M.spoil

--- 1 % of the blocks changed at random, all in the page cache.
---@return table result
function M.differential_local()
    return with_directories(function(source, target)
        local result = alternate(M.RUNS, function(seed)
            spoil(target, seed)
            M.warm(source, target)
        end, function()
            return patch(source, target)
        end, function()
            return rsync(source, target)
        end)
        M.check_equal(source, target)
        result.peer = "rsync -a --checksum --delete"
        result.bytes_moved = M.MEGABYTES * CHANGED_PPM / 1e6 * 2 ^ 20
        return result
    end)
end

--- Nothing changed, all in the page cache.
---@return table result
function M.identical_local()
    return with_directories(function(source, target)
        local result = alternate(M.RUNS, function()
            M.warm(source, target)
        end, function()
            return patch(source, target)
        end, function()
            return rsync(source, target)
        end)
        result.peer = "rsync -a --checksum --delete"
        return result
    end)
end

local function direct_read(...)
    local seconds = 0
    for _, dir in ipairs({ ... }) do
        seconds = seconds + timed({ "find", dir, "-type", "f", "-size", "+1M", "-exec", "dd",
                                    "if={}", "of=/dev/null", "iflag=direct", "bs=1M",
                                    "status=none", ";" })
    end
    return seconds
end

--- 1 % changed, nothing of either side in the page cache.
---@return table result
function M.cold_local()
    return with_directories(function(source, target)
        local result = alternate(M.RUNS, function(seed)
            spoil(target, seed)
            run({ "sync" })
            evict(source)
            evict(target)
        end, function()
            return patch(source, target)
        end, function()
            return rsync(source, target)
        end)
        evict(source)
        evict(target)
        result.direct_read = direct_read(source, target)
        result.peer = "rsync -a --checksum --delete"
        return result
    end)
end

-- With an address it listens there, too, and lets this host's users copy it.
local function server(dir, address)
    local bin = measure.BIN
    local data, port = dir .. "/server", mr.free_port()
    run({ bin .. "/initdb", "-D", data, "-k", "-N", "--auth-local=peer",
          "--auth-host=" .. (address and "trust" or "reject") })
    mr.append_file(data .. "/postgresql.conf", ([[
listen_addresses = '%s'
unix_socket_directories = '%s'
port = %d
max_wal_size = '8GB'
fsync = on
]]):format(address or "", data, port))
    run({ bin .. "/pg_ctl", "-D", data, "-l", dir .. "/server.log", "-w", "start" })
    return { datadir = data, port = port, user = mr.whoami().user, bin = bin, dbid = 1 }
end

--- A full recovery of a target from a source, by an agent.
---@param source table recover's source
---@param target string
---@param env? string[] what the agent is started with: `env NAME=VALUE`
---@return number seconds
---@return table numbers
function M.ours_full(source, target, env)
    local argv = {}
    for _, word in ipairs(env or {}) do
        table.insert(argv, word)
    end
    table.insert(argv, mr.executable)
    table.insert(argv, "agent")
    local agent = mr.check(mr.agent({ argv = argv }))
    local began = mr.clock()
    local done = mr.check(agent:call("recover", {
        dbid = 2, content = 0, epoch = 1, step = 70, datadir = target, port = mr.free_port(),
        bin = source.bin, user = source.user, type = "full", source = source, slot = "bench",
        settings = {}, start = false,
    }, { timeout_ms = measure.PATIENCE_MS }))
    agent:close()
    return (mr.clock() - began) / 1000, done
end

local function theirs_full(source, target, address)
    return timed({ source.bin .. "/pg_basebackup", "-h", address or source.datadir,
                   "-p", tostring(source.port), "-D", target, "-X", "stream", "-c", "fast" })
end

--- A full copy of a running server into an empty directory, against pg_basebackup.
---@param dir string an existing directory
---@param ours fun(source: table, target: string): number, any seconds, and what else is to be told
---@param address? string where pg_basebackup connects to: its socket unless given
---@return table result
---@return any told what else the last of ours has told
function M.full_of_server(dir, ours, address)
    local source, target = server(dir, address), dir .. "/copy"
    local at = { "-h", source.datadir, "-p", tostring(source.port), "bench" }
    return measure.finally(function()
        run({ source.bin .. "/createdb", unpack(at) })
        run({ source.bin .. "/pgbench", "-i", "-q", "-s", "210", unpack(at) })
        local result, told = alternate(M.RUNS, function()
            run({ "rm", "-rf", target })
            mr.check(mr.make_dir(target))
        end, function()
            return ours(source, target)
        end, function()
            return theirs_full(source, target, address)
        end)
        result.peer = "pg_basebackup -X stream -c fast"
        return result, told
    end, function()
        run({ source.bin .. "/pg_ctl", "-D", source.datadir, "-m", "immediate", "stop" })
    end)
end

--- The same on one host, flushed, checkpoint and backup session included.
---@return table result
function M.full_local()
    return measure.with_directory(function(dir)
        return M.full_of_server(dir, M.ours_full)
    end)
end

return M
