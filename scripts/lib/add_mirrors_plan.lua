--- What `addmirrors` is about to do: which contents lack a mirror, where theirs go, and what their
--- hosts say about these places. Nothing is touched.
local agents = require("lib.agents")
local by_host = require("lib.by_host")
local cluster = require("lib.cluster")
local config = require("lib.config")
local create_plan = require("lib.create_plan")
local host_setup = require("lib.host_setup")
local layout = require("lib.mirror_layout")
local mirror_file = require("lib.mirror_file")
local move = require("lib.move")
local mr = require("moonrise")
local rate_shares = require("lib.rate_shares")
local recovery = require("lib.recovery")
local recovery_file = require("lib.recovery_file")
local term = require("lib.term")
local tls_check = require("lib.tls_check")

local M = {}

local FILE_BYTES = 2 ^ 20

-- Mirrors that were added and have never been up: the run that added them was ended. One that has
-- been up is a failed one, and recoverseg's.
local UNFINISHED_SQL = [[
select c.dbid from moonrise.gp_segment_configuration c
where c.role = 'm' and c.status = 'd' and c.content >= 0 and not exists (
    select from moonrise.journal up where up.kind = 'mirror_up' and up.dbid = c.dbid
        and up.id > (select max(added.id) from moonrise.journal added
            where added.kind = 'instance' and added.dbid = c.dbid))]]

---@class AddedMirror
---@field pair {content: integer, primary: table, mirror: table} `mirror` as it is, or is to be, in
--- the catalog
---@field row? table the catalog's, when an earlier run has added it
---@field replaces? table likewise, at another place than is wanted now: it is taken back first
---@field failed table lib/recovery.lua's
---@field type string

--- The mirrors whose adding an earlier run has begun and not ended.
---@param ctx table {cat}
---@return table<integer, boolean>? unfinished by dbid
---@return Error? err
function M.unfinished(ctx)
    local rows, err = ctx.cat:query(UNFINISHED_SQL)
    local found = rows and {}
    for _, row in ipairs(rows or {}) do
        found[row.dbid] = true
    end
    return found, err
end

--- What marks the directories that are made for a mirror of this content: by it they are known
--- again, whichever dbid the mirror has by then.
---@param sysid string its primary's
---@param content integer
---@return string
function M.maker(sysid, content)
    return mr.hash(("addmirrors %s %d"):format(sysid, content)):sub(1, 16)
end

-- The segments' pairs; what they and the rest of the cluster have for good is in `taken`.
local function look(ctx)
    local instances, err = ctx.cat:instances()
    local unfinished
    if instances then
        unfinished, err = M.unfinished(ctx)
    end
    if not unfinished then
        return nil, err
    end
    local seen = { instances = instances, taken = {}, segments = {}, lacks = {}, behind = {},
        next_dbid = 1 }
    for _, inst in ipairs(instances) do
        seen.next_dbid = math.max(seen.next_dbid, inst.dbid + 1)
        if not unfinished[inst.dbid] then
            table.insert(seen.taken, inst)
        end
    end
    for _, pair in ipairs(cluster.pairs(instances)) do
        local mirror = pair.mirror
        if pair.content >= 0 then
            seen.segments[pair.content] = pair
            table.insert(seen, pair)
            seen.lacks[pair.content] = not mirror or unfinished[mirror.dbid] or nil
            if mirror and mirror.status == "u" and mirror.mode == "n" then
                table.insert(seen.behind, pair)
            end
        end
    end
    return seen
end

local function usage(...)
    return nil, mr.error("usage", (...):format(select(2, ...)), { hint = "nothing was touched" })
end

local function read(path)
    local text, err = mr.read_file(path, FILE_BYTES)
    if not text then
        return usage("%s cannot be read: %s", path, err.message)
    end
    return text
end

--- The locations that a file of -m names, one a line.
---@param path string
---@return string[]? locations
---@return Error? err
function M.read_locations(path)
    local text, err = read(path)
    local list, line = text and {}, 0
    for said in (text or ""):gmatch("([^\n]*)\n?") do
        line = line + 1
        said = said:match("^%s*(.-)%s*$")
        if said ~= "" and said:sub(1, 1) ~= "#" then
            local location = recovery_file.path(said)
            if not location then
                return nil, mirror_file.mistake(path, line,
                    ("'%s' is no absolute path"):format(said))
            end
            table.insert(list, location)
        end
    end
    return list, err
end

-- What a row of the file says of its content that cannot be.
local function row_problem(row, place, seen, places)
    local pair = seen.segments[row.content]
    if not pair then
        return ("the cluster has no content %d"):format(row.content)
    elseif not seen.lacks[row.content] then
        return not move.is_at(pair.mirror, place)
            and ("content %d has a mirror already, %s: movemirrors moves it"):format(row.content,
                cluster.name(pair.mirror)) or nil
    end
    local other, what = layout.clash(place, seen.taken)
    if other then
        return ("%s on host %s is in use: %s"):format(what == "port" and "port " .. place.port
            or place.datadir, place.hostname, cluster.name(other))
    end
    other, what = layout.clash(place, places)
    return other and ("content %d has this %s on host %s, too"):format(other.content,
        what == "port" and "port" or "directory", place.hostname) or nil
end

-- The places that a file of -i names.
local function from_file(path, seen)
    local text, err = read(path)
    local rows
    if text then
        rows, err = mirror_file.parse(text, path)
    end
    local places = rows and {}
    for _, row in ipairs(rows or {}) do
        local place = { content = row.content, address = row.address, port = row.port,
            hostname = recovery_file.host(seen.instances, row), datadir = row.datadir }
        local problem = row_problem(row, place, seen, places)
        if problem then
            return nil, mirror_file.mistake(path, row.line, problem)
        elseif seen.lacks[row.content] then
            table.insert(places, place)
        else
            term.info("content %d has this mirror already", row.content)
        end
    end
    return places, err
end

-- The places by one of the two layouts; `locations` asks for as many directories as are needed.
local function by_layout(opts, seen, locations)
    local primaries, coordinator = {}, cluster.pair(seen.instances, -1)
    for i, pair in ipairs(seen) do
        primaries[i] = pair.primary
    end
    local list, err = locations(layout.locations(primaries))
    if not list then
        return nil, err
    end
    local places, problem = layout.make(primaries, seen.taken, {
        spread = opts.spread, offset = opts.offset, locations = list,
        prefix = layout.prefix(coordinator and coordinator.primary.datadir or ""),
        lacks = function(content)
            return seen.lacks[content] ~= nil
        end })
    if not places then
        return usage("%s", problem)
    end
    return places
end

local function refuse(inst, message, hint)
    return nil, mr.error("refused", message, { instance = cluster.name(inst), hint = hint })
end

-- Whether the new mirror can have its port. What an earlier run has started elsewhere on the host
-- is ended before it wants it.
local function port_is_free(agent_set, entry)
    local old, mirror = entry.replaces, entry.pair.mirror
    if old and old.port == mirror.port and agents.same_host(old.hostname, mirror.hostname) then
        local word = agent_set:inspect(old)
        if word and not word.stopped then
            return true
        end
    end
    return create_plan.port_is_free(agent_set, mirror)
end

-- Whether the place is free, or holds what an earlier run has made there; what remains to be done.
local function type_of(agent_set, entry)
    local failed, mirror = entry.failed, entry.pair.mirror
    local word = failed.word
    local ours = entry.row or word.maker == entry.maker
    if word.kind == "missing" or word.kind == "empty" then
        local free, err = port_is_free(agent_set, entry)
        return free and "full" or nil, err
    elseif not ours or word.kind == "foreign" then
        return refuse(mirror, "its directory is not empty",
            "name another directory, or empty this one")
    elseif failed.foreign_system then
        return refuse(mirror, failed.why, "name another directory, or empty this one")
    elseif entry.row and failed.possible.start then
        return "start"
    end
    return word.kind == "datadir" and failed.possible.differential and "differential" or "full"
end

local function examine(ctx, entry)
    local ok, err = host_setup.same_programs(ctx, entry.pair)
    if ok then
        entry.failed, err = recovery.examine(ctx, entry.pair)
    end
    if not entry.failed then
        return nil, err
    end
    local source = entry.failed.source_word
    entry.maker = M.maker(source.control.sysid, entry.pair.content)
    entry.type, err = type_of(ctx.agents, entry)
    local free = entry.failed.word.free_bytes
    if entry.type == "full" and free and free < (source.data_bytes or 0)
        and not entry.failed.word.patch then
        return refuse(entry.pair.mirror, ("its primary has %s, and there are %s free"):format(
            term.bytes(source.data_bytes), term.bytes(free)), "make room, or name another place")
    end
    return entry.type and entry, err
end

local function entry_of(place, seen)
    local pair = seen.segments[place.content]
    local mirror = { content = place.content, role = "m", status = "d", mode = "n",
        preferred_role = pair.primary.preferred_role == "p" and "m" or "p",
        hostname = place.hostname, address = place.address, port = place.port,
        datadir = place.datadir, dbid = seen.next_dbid }
    local entry = { pair = { content = place.content, primary = pair.primary, mirror = mirror } }
    if pair.mirror and move.is_at(pair.mirror, place) then
        entry.row, entry.pair.mirror = pair.mirror, pair.mirror
    else
        entry.replaces = pair.mirror
        seen.next_dbid = seen.next_dbid + 1
    end
    return entry
end

-- Whether the hosts have what the cluster's TLS needs.
local function check_tls(ctx, plan, mirrors)
    local state, err = ctx.cat:state()
    local described
    if state then
        described, err = config.parse(state.config, "the catalog's cluster.lua")
    end
    if not described then
        return nil, err
    end
    described.warnings = {}
    local problems = tls_check.run(ctx.agents, described, mirrors)
    plan.warnings = described.warnings
    return not problems[1], problems[1]
end

-- Contents that nobody has named stay as they are.
local function left_out(places, seen)
    local named, left = {}, {}
    for _, place in ipairs(places) do
        named[place.content] = true
    end
    for _, pair in ipairs(seen) do
        if seen.lacks[pair.content] and not named[pair.content] then
            table.insert(left, pair.content)
        end
    end
    return left
end

--- The places alone, for -o.
---@param ctx table
---@param opts table addmirrors' options
---@param locations fun(count: integer): string[]?, Error? where directories are to be made
---@return MirrorPlace[]? places empty when every segment has its mirror
---@return Error|table err_or_seen
function M.places(ctx, opts, locations)
    local seen, err = look(ctx)
    if not seen then
        return nil, err
    end
    local places = {}
    if opts.input then
        places, err = from_file(opts.input, seen)
    elseif next(seen.lacks) then
        places, err = by_layout(opts, seen, locations)
    end
    return places, places and seen or err
end

local function share_rates(entries, opts)
    local copies = {}
    for _, entry in ipairs(entries) do
        table.insert(copies, entry.type ~= "start" and entry.failed or nil)
    end
    rate_shares.share(copies, opts)
end

--- The plan: { entries = AddedMirror[], behind = pairs whose mirror is up and not in sync,
--- skipped = AddedMirror[] with err, left = contents that stay without a mirror,
--- warnings = string[] }.
---@param ctx table
---@param opts table
---@param locations fun(count: integer): string[]?, Error?
---@return table? plan
---@return Error? err
function M.make(ctx, opts, locations)
    local places, seen = M.places(ctx, opts, locations)
    if not places then
        return nil, seen
    end
    local plan = { left = left_out(places, seen), behind = seen.behind }
    local entries, mirrors = {}, {}
    for i, place in ipairs(places) do
        entries[i] = entry_of(place, seen)
        mirrors[i] = entries[i].pair.mirror
    end
    local ok, err = check_tls(ctx, plan, mirrors)
    if not ok then
        return nil, err
    end
    plan.entries, plan.skipped = by_host.sort_out(entries, function(entry)
        return entry.pair.mirror.hostname
    end, opts, function(entry)
        return examine(ctx, entry)
    end)
    share_rates(plan.entries, opts)
    return plan
end

-- One instance in the words of Greenplum's plan.
local function print_instance(title, inst)
    term.info("   %-8s host %s, address %s, port %d", title, inst.hostname, inst.address,
        inst.port)
    term.info("            directory %s", inst.datadir)
end

local function print_entry(entry, i, total)
    local primary, mirror = entry.pair.primary, entry.pair.mirror
    term.info("Mirror %d of %d: content %d", i, total, entry.pair.content)
    print_instance("Primary", primary)
    print_instance("Mirror", mirror)
    if entry.type == "full" then
        term.info("   Copies   %s", term.bytes(entry.failed.source_word.data_bytes or 0))
    end
    if entry.row or entry.failed.word.maker == entry.maker then
        term.info("   Goes on  an earlier run has begun it")
    elseif entry.replaces then
        term.warn("   An earlier run has begun %s: that is taken back first",
            cluster.name(entry.replaces))
    end
    if primary.hostname == mirror.hostname then
        term.warn("   It is on its primary's host: losing the host loses both")
    end
end

--- Prints the plan.
---@param plan table
function M.print(plan)
    for _, warning in ipairs(plan.warnings) do
        term.warn("%s", warning)
    end
    term.info("Mirrors to add: %d", #plan.entries)
    term.info("-----------------------------------------------------")
    for i, entry in ipairs(plan.entries) do
        print_entry(entry, i, #plan.entries)
        term.info("-----------------------------------------------------")
    end
    for _, pair in ipairs(plan.behind) do
        term.info("   Up, not in sync  %s: nothing is copied", cluster.name(pair.mirror))
    end
    if #plan.left > 0 then
        term.warn("The file does not name content %s: no mirror is added there",
            table.concat(plan.left, ", "))
    end
end

return M
