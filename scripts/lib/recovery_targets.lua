--- Which instances `recoverseg` recovers, and where: all that are down, those of a recovery file
--- (-i), or all that are down on spare hosts (-p); and the file that says so (-o).
local mr = require("moonrise")
local agents = require("lib.agents")
local cluster = require("lib.cluster")
local recovery_file = require("lib.recovery_file")
local term = require("lib.term")

local M = {}

local FILE_BYTES = 2 ^ 20
local PORTS = 200
local HELLO_MS = 10000

---@class Target
---@field row table the catalog's
---@field type? "incremental"|"differential"|"full"
---@field to? Place

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

local function down_by_host(instances)
    local by_host, hosts = {}, {}
    for _, inst in ipairs(instances) do
        if inst.content >= 0 and inst.role == "m" and inst.status == "d" then
            if not by_host[inst.hostname] then
                by_host[inst.hostname] = {}
                table.insert(hosts, inst.hostname)
            end
            table.insert(by_host[inst.hostname], inst)
        end
    end
    table.sort(hosts)
    return by_host, hosts
end

--- The hosts of a list with commas, each once.
---@param text string
---@return string[]? hosts
---@return string? problem
function M.parse_hosts(text)
    local hosts, seen = {}, {}
    for host in (text .. ","):gmatch("([^,]*),") do
        if host == "" or host:find("[%s|%c]") then
            return nil, ("-p %s: hosts with commas between them"):format(text)
        elseif seen[host] then
            return nil, ("-p %s: host %s is named twice"):format(text, host)
        end
        seen[host] = true
        table.insert(hosts, host)
    end
    return hosts
end

local function check_spares(spares, instances, failed)
    local taken = {}
    for _, inst in ipairs(instances) do
        taken[inst.hostname] = true
    end
    for _, host in ipairs(spares) do
        if taken[host] then
            return ("-p: host %s belongs to the cluster: -i FILE recovers to it"):format(host)
        end
    end
    if #spares < #failed then
        return ("-p: %d hosts have failed instances (%s), and %d spare hosts are named"):format(
            #failed, table.concat(failed, ", "), #spares)
    end
    return nil
end

-- Its own port where that is free, else the next one that is.
local function free_port(ctx, host, port, taken)
    for candidate = port, math.min(port + PORTS, 65535) do
        if not taken[candidate] then
            local answer, err = ctx.agents:address(host, host, candidate)
            if not answer then
                return nil, err
            elseif not answer.known then
                return nil, mr.error("refused", ("host %s cannot resolve its own name (%s)")
                    :format(host, answer.why), { hint = "give an address in a file: -i FILE" })
            elseif answer.free then
                return candidate
            end
        end
    end
    return nil, mr.error("refused", ("host %s has no free port from %d on"):format(host, port))
end

local function place_on(ctx, host, inst, taken)
    local port, err = free_port(ctx, host, inst.port, taken)
    if not port then
        return nil, err
    end
    taken[port] = true
    return { row = inst, to = { hostname = host, address = host, port = port,
        datadir = inst.datadir } }
end

-- A spare host by another name of a host that takes others already is none: their ports count.
local function ports_of(spare, taken)
    for host, ports in pairs(taken) do
        if agents.same_host(host, spare) then
            return ports
        end
    end
    taken[spare] = {}
    return taken[spare]
end

--- The targets of -p: the failed instances of each host go to one spare host.
---@param ctx table
---@param text string
---@param instances table[]
---@return Target[]? targets
---@return Error? err code "usage": too few hosts, or some that cannot be spares
function M.of_spares(ctx, text, instances)
    local spares, problem = M.parse_hosts(text)
    local by_host, failed = down_by_host(instances)
    problem = problem or check_spares(spares, instances, failed)
    if problem then
        return usage({ problem })
    end
    for i = #failed + 1, #spares do
        term.warn("spare host %s is not needed", spares[i])
    end
    local targets, taken = {}, {}
    for i, host in ipairs(failed) do
        local hello, err = ctx.agents:call(spares[i], "hello", {}, { timeout_ms = HELLO_MS })
        if not hello then
            return nil, mr.error(err.code, ("spare host %s: %s"):format(spares[i], err.message),
                { cause = err, hint = err.hint or "nothing was touched: name another host" })
        end
        for _, inst in ipairs(by_host[host]) do
            local target
            target, err = place_on(ctx, spares[i], inst, ports_of(spares[i], taken))
            if not target then
                return nil, err
            end
            table.insert(targets, target)
        end
    end
    return targets
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
    return M.of_spares(ctx, opts.spares, instances)
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
        entries[i] = { row = target.row, to = target.to, type = kind,
            why_not = why_not_reached(ctx, (target.to or target.row).hostname, cache) }
    end
    return entries
end

local function all_down(instances)
    local targets = {}
    for _, inst in ipairs(instances) do
        if inst.content >= 0 and inst.role == "m" and inst.status == "d" then
            table.insert(targets, { row = inst })
        end
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
        targets = all_down(instances)
        if opts.spares then
            targets, err = M.of_spares(ctx, opts.spares, instances)
        end
    end
    if not targets then
        return nil, err
    end
    local entries = entries_of(ctx, targets, opts.full and "full" or nil)
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
    return 0
end

return M
