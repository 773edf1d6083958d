--- Benchmarks of the patch on gigabytes: against rsync as Greenplum runs it, against pg_basebackup,
--- against a plain O_DIRECT read. Ours and theirs take turns on the same data; the target is reset
--- before each run.
local mr = require("moonrise")

local M = {}

M.MEGABYTES = 3200
local CHANGED_PPM = 10000
local RUNS = 3
local PATIENCE_MS = 600000

--- Runs a program; its standard output. Raises when it fails.
---@param argv string[]
---@return string out
function M.run(argv)
    local result = mr.check(mr.run(argv, { timeout_ms = PATIENCE_MS }))
    if result.code ~= 0 then
        error(("%s: code %d: %s"):format(table.concat(argv, " "), result.code, result.stderr), 0)
    end
    return result.stdout
end

local run = M.run

--- The same, and how many seconds it took.
---@param argv string[]
---@return number seconds
---@return string out
function M.timed(argv)
    local began = mr.clock()
    local out = run(argv)
    return (mr.clock() - began) / 1000, out
end

local function median(values)
    table.sort(values)
    return values[math.ceil(#values / 2)]
end

local timed = M.timed

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
    local dir = ("%s/moonrise-bench-%d"):format(mr.getenv("TMPDIR") or "/tmp", mr.whoami().pid)
    mr.check(mr.make_dir(dir))
    local results = { pcall(function()
        run({ tool(), "make", dir .. "/source", tostring(megabytes) })
        mr.check(mr.make_dir(dir .. "/target"))
        run({ tool(), "full", dir .. "/source", dir .. "/target" })
        return fn(dir .. "/source", dir .. "/target", dir)
    end) }
    run({ "rm", "-rf", dir })
    if not results[1] then
        error(results[2], 0)
    end
    return unpack(results, 2)
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

--- Ours and theirs by turns, after a reset each.
---@param reset fun(seed: integer)
---@param ours fun(): number seconds
---@param theirs fun(): number seconds
---@return table result
function M.alternate(reset, ours, theirs)
    local mine, others = {}, {}
    for i = 1, RUNS do
        reset(2 * i)
        table.insert(mine, (ours()))
        reset(2 * i + 1)
        table.insert(others, (theirs()))
    end
    return { runs = RUNS, ours = median(mine), theirs = median(others), unit = "s",
             all = { ours = mine, theirs = others } }
end

local alternate = M.alternate

--- Changes one block in a hundred.
---@param target string
---@param seed integer
function M.spoil(target, seed)
    run({ tool(), "spoil", target, tostring(CHANGED_PPM), tostring(seed) })
end

local spoil = M.spoil

--- 1 % of the blocks changed at random.
---@return table result
function M.differential_local()
    return with_directories(function(source, target)
        local result = alternate(function(seed)
            spoil(target, seed)
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

--- Nothing changed.
---@return table result
function M.identical_local()
    return with_directories(function(source, target)
        local result = alternate(function() end, function()
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
        local result = alternate(function(seed)
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
local function server(dir, bin, address)
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
    }, { timeout_ms = PATIENCE_MS }))
    agent:close()
    return (mr.clock() - began) / 1000, done
end

local function theirs_full(source, target, address)
    return timed({ source.bin .. "/pg_basebackup", "-h", address or source.datadir,
                   "-p", tostring(source.port), "-D", target, "-X", "stream", "-c", "fast" })
end

--- A full copy of a running server into an empty directory, against pg_basebackup.
---@param dir string an existing directory
---@param ours fun(source: table, target: string): number seconds
---@param address? string where pg_basebackup connects to: its socket unless given
---@return table result
function M.full_of_server(dir, ours, address)
    local bin, target = "/usr/lib/postgresql/15/bin", dir .. "/copy"
    local source = server(dir, bin, address)
    local results = { pcall(function()
        run({ bin .. "/createdb", "-h", source.datadir, "-p", tostring(source.port), "bench" })
        run({ bin .. "/pgbench", "-i", "-q", "-s", "210", "-h", source.datadir, "-p",
              tostring(source.port), "bench" })
        return M.alternate(function()
            run({ "rm", "-rf", target })
            mr.check(mr.make_dir(target))
        end, function()
            return ours(source, target)
        end, function()
            return theirs_full(source, target, address)
        end)
    end) }
    run({ bin .. "/pg_ctl", "-D", source.datadir, "-m", "immediate", "stop" })
    if not results[1] then
        error(results[2], 0)
    end
    results[2].peer = "pg_basebackup -X stream -c fast"
    return results[2]
end

--- The same on one host, flushed, checkpoint and backup session included.
---@return table result
function M.full_local()
    local dir = ("%s/moonrise-bench-%d"):format(mr.getenv("TMPDIR") or "/tmp", mr.whoami().pid)
    mr.check(mr.make_dir(dir))
    local results = { pcall(M.full_of_server, dir, M.ours_full) }
    run({ "rm", "-rf", dir })
    if not results[1] then
        error(results[2], 0)
    end
    return results[2]
end

return M
