--- Where the mirrors of a cluster go, by Greenplum's two rules: *group* puts all mirrors of one
--- host's primaries on the next host, *spread* each on another one. Pure.
---
--- The same primaries always give the same layout, whichever of them have their mirrors already: a
--- run that ended in the middle finds the places again that it has begun to fill.
local M = {}

local MAX_PORT = 65535

---@class MirrorPlace
---@field content integer
---@field hostname string
---@field address string
---@field port integer
---@field datadir string

-- Hosts in their order, each with its primaries ordered by port.
local function by_host(primaries)
    local hosts, on = {}, {}
    for _, primary in ipairs(primaries) do
        if not on[primary.hostname] then
            on[primary.hostname] = {}
            table.insert(hosts, primary.hostname)
        end
        table.insert(on[primary.hostname], primary)
    end
    table.sort(hosts)
    for _, list in pairs(on) do
        table.sort(list, function(a, b)
            return a.port < b.port
        end)
    end
    return hosts, on
end

-- The addresses of a host's primaries, each once.
local function addresses(primaries)
    local seen, list = {}, {}
    for _, primary in ipairs(primaries) do
        if not seen[primary.address] then
            seen[primary.address] = true
            table.insert(list, primary.address)
        end
    end
    table.sort(list)
    return list
end

-- Of several networks the mirror uses the one after its primary's: one that fails takes not both.
local function address_on(target, primary, neighbours)
    local theirs = addresses(target)
    for i, address in ipairs(addresses(neighbours)) do
        if address == primary.address then
            return theirs[i % #theirs + 1]
        end
    end
    return theirs[1]
end

--- How many locations a layout needs: as many as a host has primaries at most.
---@param primaries table[] one row for each content
---@return integer
function M.locations(primaries)
    local most = 0
    local _, on = by_host(primaries)
    for _, list in pairs(on) do
        most = math.max(most, #list)
    end
    return most
end

--- Whether two directories are the same, or one lies inside the other.
---@param a string
---@param b string
---@return boolean
function M.overlap(a, b)
    a, b = a .. "/", b .. "/"
    return a:sub(1, #b) == b or b:sub(1, #a) == a
end

--- What of a place is somebody's already.
---@param place {hostname: string, port: integer, datadir: string}
---@param others table[] instances, or other places
---@return table? other whose it is
---@return "port"|"datadir"|nil what
function M.clash(place, others)
    for _, other in ipairs(others) do
        if other.hostname == place.hostname then
            if other.port == place.port then
                return other, "port"
            elseif M.overlap(other.datadir, place.datadir) then
                return other, "datadir"
            end
        end
    end
    return nil
end

-- The first port at or above this one that nobody has on the host.
local function free_port(host, port, others)
    local used = {}
    for _, other in ipairs(others) do
        used[other.port] = other.hostname == host or used[other.port]
    end
    while used[port] do
        port = port + 1
    end
    return port
end

-- Which host the mirror of the i-th primary of the h-th host goes to.
local function target_of(hosts, h, i, spread)
    return hosts[(h - 1 + (spread and i or 1)) % #hosts + 1]
end

local function refusal(hosts, needed, options)
    if options.spread and #hosts <= needed then
        return ("spread mirroring needs more hosts than a host has primaries: there are %d hosts "
            .. "and up to %d primaries on one"):format(#hosts, needed)
    elseif #options.locations ~= needed then
        return ("%d locations are needed, as many as a host has primaries at most, not %d"):format(
            needed, #options.locations)
    end
    return nil
end

local function place_of(primary, target, taken, options)
    local place = { content = primary.content, hostname = target.host,
        address = address_on(target.primaries, primary, target.neighbours),
        port = free_port(target.host, primary.port + options.offset, taken),
        datadir = ("%s/%s%d"):format(options.locations[target.index]:gsub("(.)/+$", "%1"),
            options.prefix, primary.content) }
    if place.port < 1 or place.port > MAX_PORT then
        return nil, ("the mirror of content %d would have port %d: a port is from 1 to %d"):format(
            place.content, place.port, MAX_PORT)
    end
    local other = M.clash(place, taken)
    if other then
        return nil, ("the mirror of content %d would have %s on host %s, which is in use: name " ..
            "another location"):format(place.content, place.datadir, place.hostname)
    end
    return place
end

--- The places of the mirrors that are missing.
---@param primaries table[] the rows of all contents' primaries
---@param taken table[] the instances that there are
---@param options {spread: boolean?, offset: integer, locations: string[], prefix: string,
--- lacks: fun(content: integer): boolean}
---@return MirrorPlace[]? places ordered by content
---@return string? problem
function M.make(primaries, taken, options)
    local hosts, on = by_host(primaries)
    local problem = refusal(hosts, M.locations(primaries), options)
    if problem then
        return nil, problem
    end
    local all, places, count = { unpack(taken) }, {}, {}
    for h, host in ipairs(hosts) do
        for i, primary in ipairs(on[host]) do
            local target = target_of(hosts, h, i, options.spread)
            count[target] = (count[target] or 0) + 1
            if options.lacks(primary.content) then
                local place
                place, problem = place_of(primary, { host = target, primaries = on[target],
                    neighbours = on[host], index = count[target] }, all, options)
                if not place then
                    return nil, problem
                end
                table.insert(all, place)
                table.insert(places, place)
            end
        end
    end
    table.sort(places, function(a, b)
        return a.content < b.content
    end)
    return places
end

--- What the directories of a cluster's segments are called, without their content: as the
--- coordinator's, which ends with its own (-1), or gp.
---@param datadir string of the coordinator
---@return string prefix
function M.prefix(datadir)
    local name = datadir:gsub("/+$", ""):match("([^/]*)$")
    return name:match("^(.+)%-1$") or "gp"
end

return M
