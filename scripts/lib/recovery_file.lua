--- Recovery files, as `recoverseg -o` writes and `-i` reads them. Pure.
---
---     # a comment
---     sdw2|sdw2|7000|/data/mirror/gpseg0
---     D|sdw2|7001|/data/mirror/gpseg1
---     sdw3|sdw3|7000|/data/mirror/gpseg2 sdw4|sdw4|7000|/data/mirror/gpseg2
---
--- One place is a recovery there, two places (where it is, where it shall be) one to the other. A
--- place is host|address|port|datadir or address|port|datadir; a leading I|, D| or F| is the type.
local cluster = require("lib.cluster")

local M = {}

local TYPES = { I = "incremental", D = "differential", F = "full" }
local LINE_BYTES = 8192

---@class FileRow
---@field line integer
---@field type? "incremental"|"differential"|"full"
---@field old {hostname: string?, address: string, port: integer, datadir: string}
---@field new? {hostname: string?, address: string, port: integer, datadir: string}

---@class FileTarget
---@field line integer
---@field row table the catalog's
---@field type? "incremental"|"differential"|"full"
---@field to? Place
---@field is_there? boolean nothing is to be done: it is up, and where it shall be

--- A path without what means nothing in it; nil when it is not absolute, or goes up.
---@param path string
---@return string?
function M.path(path)
    if path:sub(1, 1) ~= "/" or ("/" .. path .. "/"):find("/../", 1, true) then
        return nil
    end
    path = path:gsub("/%.%f[/%z]", "/"):gsub("//+", "/")
    path = #path > 1 and path:gsub("/$", "") or path
    return path ~= "/" and path or nil
end

local function split(text, pattern)
    local list = {}
    for item in text:gmatch(pattern) do
        table.insert(list, item)
    end
    return list
end

--- Fields between bars, blanks around them cut off.
---@param text string
---@return string[]
function M.fields(text)
    return split(text .. "|", "%s*([^|]-)%s*|")
end

local function is_host(name)
    return #name <= 255 and name:find("^[%w:][%w._:%%-]*$") ~= nil
end

--- A place, of three or four fields.
---@param fields string[]
---@return {hostname: string?, address: string, port: integer, datadir: string}? place
---@return string? problem
function M.place(fields)
    local n = #fields
    local address = fields[n - 2]:match("^%[(.*)%]$") or fields[n - 2]
    local host = n == 4 and (fields[1]:match("^%[(.*)%]$") or fields[1]) or nil
    local port = fields[n - 1]:match("^%d+$") and tonumber(fields[n - 1])
    local datadir = M.path(fields[n])
    if address == "" or host == "" then
        return nil, "the host or the address is empty"
    elseif not is_host(address) or (host and not is_host(host)) then
        return nil, ("'%s' is no host name or address"):format(is_host(address) and host or address)
    elseif not port or port < 1 or port > 65535 then
        return nil, ("'%s' is no port"):format(fields[n - 1])
    elseif not datadir or datadir:find("['\"\\:]") then
        return nil, ("'%s' is no absolute path of a directory"):format(fields[n])
    end
    return { hostname = host, address = address, port = port, datadir = datadir }
end

-- A single capital letter before a place is a type, or was meant to be one.
local function take_type(fields)
    local letter = #fields >= 4 and fields[1]:match("^%u$") or #fields == 5 and fields[1]
    if not letter then
        return nil
    end
    table.remove(fields, 1)
    if not TYPES[letter] then
        return nil, ("there is no type '%s': I is incremental, D differential, F full"):format(
            letter)
    end
    return TYPES[letter]
end

local function check_counts(old, new)
    for _, fields in ipairs({ old, new }) do
        if #fields ~= 3 and #fields ~= 4 then
            return ("a place is host|address|port|datadir or address|port|datadir, not %d fields")
                :format(#fields)
        end
    end
    return new and #old ~= #new
        and ("the two places have different forms: %d and %d fields"):format(#old, #new) or nil
end

local function parse_groups(groups)
    if #groups > 2 then
        return nil, ("%d places: there is one, or two with where it shall be"):format(#groups)
    end
    local old, new = M.fields(groups[1]), groups[2] and M.fields(groups[2])
    local kind, problem = take_type(old)
    problem = problem or check_counts(old, new)
    if problem then
        return nil, problem
    end
    local row = { type = kind }
    row.old, problem = M.place(old)
    if row.old and new then
        row.new, problem = M.place(new)
    end
    if problem then
        return nil, problem
    end
    return row
end

local function parse_line(text)
    if #text > LINE_BYTES then
        return nil, ("it is longer than %d bytes"):format(LINE_BYTES)
    elseif text:find("[%z\1-\8\11-\31\127]") then
        return nil, "it has control characters"
    end
    return parse_groups(split(text, "%S+"))
end

--- Reads a recovery file's text.
---@param text string
---@return FileRow[] rows
---@return string[] problems each with its line
function M.parse(text)
    local rows, problems, number = {}, {}, 0
    for line in (text:gsub("^\239\187\191", "") .. "\n"):gmatch("(.-)\r?\n") do
        number = number + 1
        if line:find("%S") and not line:find("^%s*#") then
            local row, problem = parse_line(line)
            if row then
                row.line = number
                table.insert(rows, row)
            else
                table.insert(problems, ("line %d: %s"):format(number, problem))
            end
        end
    end
    return rows, problems
end

--- The host of a place: an address alone names the one whose instances have it, or is a host's name
--- itself.
---@param instances table[]
---@param place {hostname: string?, address: string}
---@return string
function M.host(instances, place)
    if place.hostname then
        return place.hostname
    end
    for _, inst in ipairs(instances) do
        if inst.address == place.address then
            return inst.hostname
        end
    end
    return place.address
end

local function find(instances, place)
    local host = M.host(instances, place)
    for _, inst in ipairs(instances) do
        if inst.hostname == host and inst.address == place.address and inst.port == place.port
            and M.path(inst.datadir) == place.datadir then
            return inst
        end
    end
    return nil
end

local function knows_host(instances, place)
    for _, inst in ipairs(instances) do
        if inst.hostname == place.hostname or inst.address == place.address then
            return true
        end
    end
    return false
end

local function unknown(instances, place)
    if not knows_host(instances, place) then
        return ("the cluster has no host '%s'"):format(place.hostname or place.address)
    end
    return ("no instance of the cluster has %s, address %s, port %d and directory %s"):format(
        place.hostname and "host " .. place.hostname or "any host", place.address, place.port,
        place.datadir)
end

-- Which instance a line is about. One that an earlier run has moved is found at its new place.
local function instance_of(instances, row)
    local inst, to = find(instances, row.old), nil
    if row.new then
        to = { hostname = M.host(instances, row.new), address = row.new.address,
               port = row.new.port, datadir = row.new.datadir }
    end
    local moved = not inst and to and find(instances, to)
    if not inst and not moved then
        return nil, unknown(instances, row.old)
    elseif moved or (to and find(instances, to) == inst) then
        -- Two places that are the same: all of it is copied, as Greenplum does.
        return { line = row.line, row = inst or moved, type = not moved and "full" or nil,
                 is_moved = row.new ~= nil }
    end
    return { line = row.line, row = inst, type = row.type, to = to }
end

local function check_instance(target, moves)
    local inst = target.row
    local name = ("dbid %d"):format(inst.dbid)
    if inst.content == -1 then
        return name .. " is a coordinator: moonrise initstandby makes a standby coordinator"
    elseif inst.role == "p" then
        return name .. " is its content's primary: " .. (moves
            and ("moonrise switchover %d makes it a mirror first"):format(inst.content)
            or "only mirrors are recovered")
    elseif moves and not target.to and not target.is_moved then
        return "two places are wanted: where it is, and where it shall be"
    elseif target.to and inst.status == "u" and not moves then
        return name .. " is up: moonrise movemirrors moves what is up"
    elseif target.to and target.type and target.type ~= "full" then
        return ("a copy to another place is a full one, not %s"):format(target.type)
    end
    target.is_there = inst.status == "u"
    return nil
end

local function clash(a, b)
    if a.hostname ~= b.hostname then
        return nil
    end
    return a.port == b.port and ("port %d of host %s"):format(a.port, a.hostname)
        or M.path(a.datadir) == M.path(b.datadir)
        and ("directory %s of host %s"):format(a.datadir, a.hostname) or nil
end

-- Nobody else has the new place, nor gets it by another line.
local function check_place(target, instances, before)
    for _, inst in ipairs(instances) do
        local what = inst.dbid ~= target.row.dbid and clash(target.to, inst)
        if what then
            return ("%s is dbid %d's"):format(what, inst.dbid)
        end
    end
    for _, other in ipairs(before) do
        local what = other.to and clash(target.to, other.to)
        if what then
            return ("%s is line %d's"):format(what, other.line)
        end
    end
    return nil
end

local function check_twice(target, before)
    for _, other in ipairs(before) do
        if other.row.dbid == target.row.dbid then
            return ("dbid %d is in line %d already"):format(target.row.dbid, other.line)
        end
    end
    return nil
end

--- Holds the rows of a file against the catalog.
---@param rows FileRow[]
---@param instances table[] the catalog's
---@param moves? boolean the file is one of movemirrors, which moves what is up
---@return FileTarget[] targets
---@return string[] problems each with its line
function M.resolve(rows, instances, moves)
    local targets, problems = {}, {}
    for _, row in ipairs(rows) do
        local target, problem = instance_of(instances, row)
        problem = problem or check_twice(target, targets) or check_instance(target, moves)
            or target.to and check_place(target, instances, targets)
        if problem then
            table.insert(problems, ("line %d: %s"):format(row.line, problem))
        end
        table.insert(targets, target)
    end
    return targets, problems
end

local function place_text(place)
    return ("%s|%s|%d|%s"):format(place.hostname, place.address, place.port, place.datadir)
end

---@class FileEntry
---@field row table the catalog's
---@field type? "incremental"|"differential"|"full"
---@field to? Place
---@field why_not? string its host is not reached: the row is written as a comment

--- The text of a recovery file.
---@param entries FileEntry[]
---@return string
function M.format(entries)
    local lines = { "# [I|D|F|]host|address|port|datadir: recovered where it is; a second " ..
        "place is where it shall be" }
    for _, entry in ipairs(entries) do
        local letter = entry.type and entry.type:sub(1, 1):upper() .. "|" or ""
        local line = letter .. place_text(entry.row)
        if entry.to then
            line = line .. " " .. place_text(entry.to)
        end
        if entry.why_not then
            table.insert(lines, "# " .. entry.why_not:gsub("%c", " "))
            line = "# " .. line
        end
        table.insert(lines, line)
    end
    return table.concat(lines, "\n") .. "\n"
end

-- A blank ends a place, and a bar one of its fields.
local function is_writable(place)
    for _, key in ipairs({ "hostname", "address", "datadir" }) do
        if place[key]:find("[|%s]") then
            return false
        end
    end
    return true
end

--- The entries that no recovery file can name.
---@param entries FileEntry[]
---@return table[] rows
function M.unwritable(entries)
    local rows = {}
    for _, entry in ipairs(entries) do
        if not is_writable(entry.row) or (entry.to and not is_writable(entry.to)) then
            table.insert(rows, entry.row)
        end
    end
    return rows
end

--- What an instance is called where its line is known.
---@param target FileTarget
---@return string
function M.name(target)
    return ("line %d, %s"):format(target.line, cluster.name(target.row))
end

return M
