--- Which instances `recoverseg` recovers, and where: all that are down, those of a recovery file
--- (-i), or all that are down on spare hosts (-p); and the file that says so (-o).
local mr = require("moonrise")
local cluster = require("lib.cluster")
local recovery_file = require("lib.recovery_file")
local spare_hosts = require("lib.spare_hosts")
local tell_skipped = require("lib.tell_skipped")
local term = require("lib.term")

local M = {}

local FILE_BYTES = 2 ^ 20
local HELLO_MS = 10000

---@class Target
---@field row table the catalog's
---@field type? "incremental"|"differential"|"full"
---@field to? Place
---@field err? Error why it has no place to go to: it is skipped

local function usage(problems)
    for i = 1, #problems - 1 do
        term.error(problems[i])
    end
    return nil, mr.error("usage", problems[#problems])
end

--- The targets of a recovery file. One that is up, and where it shall be, is left out.
---@param file string
---@param instances table[]
---@param moves? boolean a file of movemirrors: those that are there already are given too
---@return Target[]? targets
---@return Error? err code "usage": mistakes in the file; all but the last one have been told
function M.of_file(file, instances, moves)
    local text, err = mr.read_file(file, FILE_BYTES)
    if not text then
        return nil, mr.error("usage", ("%s: %s"):format(file, err.message))
    end
    local rows, problems = recovery_file.parse(text)
    local found, more = recovery_file.resolve(rows, instances, moves)
    for _, problem in ipairs(more) do
        table.insert(problems, problem)
    end
    if #problems > 0 then
        for i, problem in ipairs(problems) do
            problems[i] = ("%s, %s"):format(file, problem)
        end
        return usage(problems)
    end
    local targets = {}
    for _, target in ipairs(found) do
        if target.is_there and not moves then
            term.info("%s: it is up, nothing is to be done", recovery_file.name(target))
        else
            table.insert(targets, target)
        end
    end
    return targets
end

local function all_down(instances)
    local down = {}
    for _, inst in ipairs(instances) do
        if inst.content >= 0 and inst.role == "m" and inst.status == "d" then
            table.insert(down, inst)
        end
    end
    return down
end

--- The targets that the command line names; nil for all that is down, by whatever type.
---@param ctx table
---@param opts table
---@return Target[]? targets
---@return Error? err
function M.of(ctx, opts)
    if not opts.input and not opts.spares then
        return nil
    end
    local instances, err = ctx.cat:instances()
    if not instances then
        return nil, err
    end
    if opts.input then
        return M.of_file(opts.input, instances)
    end
    return spare_hosts.targets(ctx, opts.spares, instances)
end

local function why_not_reached(ctx, host, cache)
    if cache[host] == nil then
        local hello, err = ctx.agents:call(host, "hello", {}, { timeout_ms = HELLO_MS })
        cache[host] = not hello and ("host %s is not reached: %s"):format(host, tostring(err))
    end
    return cache[host] or nil
end

local function entries_of(ctx, targets, kind)
    local entries, cache = {}, {}
    for i, target in ipairs(targets) do
        local err = target.err
        entries[i] = { row = target.row, to = target.to, type = kind, err = err,
            why_not = err and tostring(err)
                or why_not_reached(ctx, (target.to or target.row).hostname, cache) }
    end
    return entries
end

local function to_write(ctx, opts, instances)
    if opts.spares then
        return spare_hosts.targets(ctx, opts.spares, instances)
    end
    local targets = {}
    for i, inst in ipairs(all_down(instances)) do
        targets[i] = { row = inst }
    end
    return targets
end

local function write(opts, entries)
    local bad = recovery_file.unwritable(entries)[1]
    if bad then
        return nil, mr.error("argument", ("%s cannot stand in a recovery file: a name in it "
            .. "has a blank or a bar"):format(cluster.name(bad)))
    end
    local text = recovery_file.format(entries)
    if opts.dry_run then
        mr.out(text)
        return true
    elseif mr.stat(opts.output) then
        term.warn("%s was there, and is replaced", opts.output)
    end
    return mr.write_file(opts.output, text, "0644")
end

-- Those that have no place to go to.
local function skipped(entries)
    local list = {}
    for _, entry in ipairs(entries) do
        table.insert(list, entry.err and entry or nil)
    end
    tell_skipped(list, function(entry)
        return cluster.name(entry.row)
    end)
    return #list
end

--- Writes the recovery file of what is down (-o), to its place or with -p to spare hosts; nothing
--- is recovered.
---@param ctx table
---@param opts table
---@return integer? code
---@return Error? err
function M.write(ctx, opts)
    local instances, err = ctx.cat:instances()
    local targets
    if instances then
        targets, err = to_write(ctx, opts, instances)
    end
    if not targets then
        return nil, err
    end
    local entries = entries_of(ctx, targets, opts.full and "full" or nil)
    local failures = skipped(entries)
    local ok
    ok, err = write(opts, entries)
    if not ok then
        return nil, err
    end
    term.info(#entries == 0 and "No segments to recover" or "%d instance(s) written to %s",
        #entries, opts.output)
    if opts.json then
        term.json({ file = opts.output, instances = #entries })
    end
    return failures == 0 and 0 or 1
end

return M
