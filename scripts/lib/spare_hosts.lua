--- Recovery to spare hosts (recoverseg -p): the instances of each failed host go to one spare host.
--- A run that has not done all of it is run again: what it has brought to a spare host is recovered
--- there, and the rest of the same failed host follows.
local mr = require("moonrise")
local agents = require("lib.agents")
local term = require("lib.term")

local M = {}

local PORTS = 200
local HELLO_MS = 10000

--- The hosts of a list with commas, each once.
---@param text string
---@return string[]? hosts
---@return string? problem
function M.parse(text)
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

-- What is down on each host, and which hosts serve: they have a primary or a coordinator.
local function look(instances)
    local down, serves, taken = {}, {}, {}
    for _, inst in ipairs(instances) do
        local host = inst.hostname
        taken[host] = true
        if inst.content < 0 or inst.role == "p" then
            serves[host] = true
        elseif inst.status == "d" then
            down[host] = down[host] or {}
            table.insert(down[host], inst)
        end
    end
    return down, serves, taken
end

local function names_of(map)
    local names = {}
    for name in pairs(map) do
        table.insert(names, name)
    end
    table.sort(names)
    return names
end

-- Whatever was brought to a host that serves, it is no spare one.
local function to_others(moves, serves)
    local list = {}
    for _, move in ipairs(moves) do
        table.insert(list, not serves[move.to_host] and move or nil)
    end
    return list
end

-- The hosts to which an earlier run has brought something that is still there.
local function reached(rows, moves)
    local hosts = {}
    for _, move in ipairs(moves) do
        local row = rows[move.dbid]
        if row and row.hostname == move.to_host and move.from_host ~= move.to_host then
            hosts[move.to_host] = true
        end
    end
    return hosts
end

-- The spare host to which an earlier run has brought, or begun to bring, something of a failed one.
local function begun(host, free, rows, moves)
    for _, move in ipairs(moves) do
        local row = rows[move.dbid]
        if move.from_host == host and free[move.to_host] and row
            and (row.hostname == host or row.hostname == move.to_host) then
            return move.to_host
        end
    end
    return nil
end

local function first_free(spares, free)
    for _, spare in ipairs(spares) do
        if free[spare] then
            return spare
        end
    end
    return nil
end

-- Each failed host's spare host; `taken` are the hosts that the cluster has.
local function pair_off(spares, failed, taken, before)
    local free, spare_of = {}, {}
    for _, spare in ipairs(spares) do
        free[spare] = true
    end
    for _, host in ipairs(failed) do
        spare_of[host] = before(host, free)
        free[spare_of[host] or ""] = nil
    end
    for _, host in ipairs(failed) do
        if not spare_of[host] then
            local spare = first_free(spares, free)
            if not spare then
                return nil, ("-p: %d hosts have failed instances (%s), and %d spare hosts are "
                    .. "named"):format(#failed, table.concat(failed, ", "), #spares)
            elseif taken[spare] then
                return nil, ("-p: host %s belongs to the cluster: -i FILE recovers to it"):format(
                    spare)
            end
            spare_of[host], free[spare] = spare, nil
        end
    end
    return spare_of, free
end

--- Which instances go to which spare host: pure.
---@param spares string[]
---@param instances table[]
---@param moves table[] of Catalog:moves
---@return {row: table, spare: string?}[]? list without a spare host: recovered where it is, since
--- an earlier run has brought it there
---@return string[]|string idle spare hosts that are not needed; without a list what is wrong
function M.assign(spares, instances, moves)
    local down, serves, taken = look(instances)
    local rows, list, idle = {}, {}, {}
    for _, inst in ipairs(instances) do
        rows[inst.dbid] = inst
    end
    moves = to_others(moves, serves)
    local used = reached(rows, moves)
    for _, spare in ipairs(spares) do
        for _, inst in ipairs(used[spare] and down[spare] or {}) do
            table.insert(list, { row = inst })
        end
        down[spare] = not used[spare] and down[spare] or nil
    end
    local failed = names_of(down)
    local spare_of, free = pair_off(spares, failed, taken, function(host, candidates)
        return begun(host, candidates, rows, moves)
    end)
    if not spare_of then
        return nil, free
    end
    for _, host in ipairs(failed) do
        for _, inst in ipairs(down[host]) do
            table.insert(list, { row = inst, spare = spare_of[host] })
        end
    end
    for _, spare in ipairs(spares) do
        table.insert(idle, free[spare] and not taken[spare] and spare or nil)
    end
    return list, idle
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

-- The port at which the copy of an earlier run listens.
local function port_of_copy(ctx, host, inst, moves)
    for _, move in ipairs(moves) do
        if move.dbid == inst.dbid and move.to_host == host and move.datadir == inst.datadir then
            local word, err = ctx.agents:inspect({ dbid = inst.dbid, content = inst.content,
                hostname = host, address = host, port = move.port, datadir = inst.datadir })
            return word and not word.stopped and move.port or nil, err
        end
    end
    return nil
end

local function place_on(ctx, host, inst, taken, moves)
    local port, err = port_of_copy(ctx, host, inst, moves)
    if not port and not err then
        port, err = free_port(ctx, host, inst.port, taken)
    end
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

local function answers(ctx, host)
    local hello, err = ctx.agents:call(host, "hello", {}, { timeout_ms = HELLO_MS })
    if not hello then
        return nil, mr.error(err.code, ("spare host %s: %s"):format(host, err.message),
            { cause = err, hint = err.hint or "name another host" })
    end
    return true
end

-- Where there is no place for one, the others still have theirs.
local function places_on(ctx, list, moves)
    local targets, taken, asked = {}, {}, {}
    for i, one in ipairs(list) do
        local row, spare, target, err = one.row, one.spare, { row = one.row }, nil
        if not spare then
            ports_of(row.hostname, taken)[row.port] = true
        else
            asked[spare] = asked[spare] or { answers(ctx, spare) }
            err = asked[spare][2]
        end
        if spare and not err then
            target, err = place_on(ctx, spare, row, ports_of(spare, taken), moves)
        end
        targets[i] = target or { row = row }
        targets[i].err = err
    end
    return targets
end

--- The targets of -p.
---@param ctx table
---@param text string
---@param instances table[]
---@return Target[]? targets
---@return Error? err code "usage": too few hosts, or some that cannot be spares
function M.targets(ctx, text, instances)
    local spares, problem = M.parse(text)
    if not spares then
        return nil, mr.error("usage", problem)
    end
    local moves, err = ctx.cat:moves()
    if not moves then
        return nil, err
    end
    local list, idle = M.assign(spares, instances, moves)
    if not list then
        return nil, mr.error("usage", idle)
    end
    for _, spare in ipairs(idle) do
        term.warn("spare host %s is not needed", spare)
    end
    return places_on(ctx, list, moves)
end

return M
