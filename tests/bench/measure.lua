--- What the benchmarks measure with: programs that must do well, the time that they take, turns of
--- ours and theirs, and a directory of the run's.
local mr = require("moonrise")

local M = {}

--- PostgreSQL's programs.
M.BIN = "/usr/lib/postgresql/15/bin"
--- How long one step may take.
M.PATIENCE_MS = 600000

--- Runs a program; its standard output. Raises when it fails.
---@param argv string[]
---@return string out
function M.run(argv)
    local result = mr.check(mr.run(argv, { timeout_ms = M.PATIENCE_MS }))
    if result.code ~= 0 then
        error(("%s: code %d: %s"):format(table.concat(argv, " "), result.code, result.stderr), 0)
    end
    return result.stdout
end

--- The same, and how many seconds it took.
---@param argv string[]
---@return number seconds
---@return string out
function M.timed(argv)
    local began = mr.clock()
    local out = M.run(argv)
    return (mr.clock() - began) / 1000, out
end

--- Sorts the values in place.
---@param values number[]
---@return number
function M.median(values)
    table.sort(values)
    return values[math.ceil(#values / 2)]
end

--- Ours and theirs by turns, after a reset each.
---@param runs integer
---@param reset fun(seed: integer)
---@param ours fun(): number, any seconds, and what else is to be told of them
---@param theirs fun(): number seconds
---@return table result
---@return any told what else the last of ours has told
function M.alternate(runs, reset, ours, theirs)
    local mine, others, told = {}, {}, nil
    for i = 1, runs do
        reset(2 * i)
        mine[i], told = ours()
        reset(2 * i + 1)
        others[i] = theirs()
    end
    return { runs = runs, ours = M.median(mine), theirs = M.median(others), unit = "s",
             all = { ours = mine, theirs = others } }, told
end

--- Calls a function, and another one after it, whether it fails or not.
---@param fn fun(): any
---@param after fun()
---@return any results of fn
function M.finally(fn, after)
    local results = { pcall(fn) }
    after()
    if not results[1] then
        error(results[2], 0)
    end
    return unpack(results, 2)
end

--- The directory of this run. Nobody has made it yet.
---@return string path
function M.directory()
    return ("%s/moonrise-bench-%d"):format(mr.getenv("TMPDIR") or "/tmp", mr.whoami().pid)
end

--- Makes that directory for as long as a function works in it.
---@param fn fun(dir: string): any
---@return any results of fn
function M.with_directory(fn)
    local dir = M.directory()
    mr.check(mr.make_dir(dir))
    return M.finally(function()
        return fn(dir)
    end, function()
        M.run({ "rm", "-rf", dir })
    end)
end

return M
