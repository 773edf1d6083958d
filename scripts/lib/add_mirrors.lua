--- Adding mirrors to contents that have none.
---
--- For each by itself: the primary lets the mirror's address in, the catalog gets its row (down),
--- and a recovery makes it what it is: slot, copy, start, up, in sync. So whatever runs in a
--- mirror's directory, or holds WAL back for it, has a row; a run that is killed leaves at most a
--- mirror that is down and has never been up, which the next run (or recoverseg) finishes. One that
--- fails is taken back: slot, line of pg_hba.conf, row; what was copied stays for the next run.
local cluster = require("lib.cluster")
local create = require("lib.create")
local fdw = require("lib.fdw")
local hba = require("lib.hba")
local hold = require("lib.hold")
local host_setup = require("lib.host_setup")
local hosts_record = require("lib.hosts_record")
local instance = require("lib.instance")
local move = require("lib.move")
local mr = require("moonrise")
local plan_of = require("lib.add_mirrors_plan")
local reader = require("lib.reader")
local recovery = require("lib.recovery")
local term = require("lib.term")

local M = {}

local INTENT = "addmirrors"

-- Has the primary let in whom these rows make necessary.
local function let_in(ctx, pair, instances, epoch)
    local changed, err = hba.apply(ctx, pair.primary, instances, { epoch = function()
        return epoch
    end })
    return changed ~= nil or nil, err
end

local function add_row(ctx, pair, mirror, token)
    return hosts_record.joining(ctx, { hostname = mirror.hostname }, function(facts)
        return ctx.cat:call("mirror_add", token, {
            content = pair.content, role = "m", preferred_role = mirror.preferred_role,
            port = mirror.port, hostname = mirror.hostname, address = mirror.address,
            datadir = mirror.datadir }, facts)
    end)
end

local function remove_row(ctx, mirror, token)
    return hosts_record.leaving(ctx, mirror.dbid, function(facts)
        return ctx.cat:call("instance_remove", token, mirror.dbid, facts)
    end)
end

-- The rows with this mirror, or without it.
local function rows_with(ctx, mirror, without)
    local instances, err = ctx.cat:instances()
    local list = instances and {}
    for _, inst in ipairs(instances or {}) do
        if inst.dbid ~= without then
            table.insert(list, inst)
        end
    end
    if list and mirror then
        table.insert(list, mirror)
    end
    return list, err
end

local function register(ctx, entry)
    local pair, mirror = entry.pair, entry.pair.mirror
    return hold.content(ctx, pair.content, INTENT, "register", function(lease)
        local epoch, err = ctx.cat:call("epoch_reserve", lease.token, pair.content,
            "addmirrors: let the mirror in")
        local instances
        if epoch then
            instances, err = rows_with(ctx, mirror)
        end
        local ok
        if instances then
            ok, err = let_in(ctx, pair, instances, epoch)
        end
        if not ok then
            return nil, err
        end
        local dbid
        dbid, err = add_row(ctx, pair, mirror, lease.token)
        return dbid and setmetatable({ dbid = dbid }, { __index = mirror }), err
    end)
end

-- What runs there ends: it would hold on to the slot.
local function quiet(ctx, mirror, epoch)
    local word = ctx.agents:inspect(mirror)
    if word and not word.stopped then
        return ctx.agents:order(mirror, "fence", { epoch = epoch })
    end
    -- On a host that does not answer nothing streams, or the slot says so.
    return true
end

-- The row goes last: as long as it is there the next run knows what else is left.
local function take_back_held(ctx, pair, mirror, token)
    local epoch, err = ctx.cat:call("epoch_reserve", token, pair.content,
        "addmirrors: take the mirror back")
    local ok
    if epoch then
        ok, err = quiet(ctx, mirror, epoch)
    end
    if ok then
        ok, err = ctx.agents:order(pair.primary, "slot",
            { epoch = epoch, create = false, name = instance.slot_name(mirror) })
    end
    local instances
    if ok then
        instances, err = rows_with(ctx, nil, mirror.dbid)
    end
    if instances then
        ok, err = let_in(ctx, pair, instances, epoch)
    else
        ok = nil
    end
    if not ok then
        return nil, err
    end
    return remove_row(ctx, mirror, token)
end

--- Takes back what was added at this place and has never been up. What is up by now, or somewhere
--- else, is left alone.
---@param ctx table
---@param place {content: integer, hostname: string, port: integer, datadir: string}
---@return any ok
---@return Error? err code "busy" when somebody else works on it
function M.take_back(ctx, place)
    return hold.content(ctx, place.content, INTENT, "take back", function(lease)
        local unfinished, err = plan_of.unfinished(ctx)
        local pair
        if unfinished then
            pair, err = ctx.cat:pair(place.content)
        end
        local mirror = pair and pair.mirror
        if not pair then
            return nil, err
        elseif not mirror then
            -- It may have been let in already.
            local followed
            followed, err = hba.follow(ctx, place.content, lease.token)
            return followed and true, err
        elseif not unfinished[mirror.dbid] or not move.is_at(mirror, place) then
            return true
        end
        return take_back_held(ctx, pair, mirror, lease.token)
    end)
end

-- What an earlier run has begun at another place goes, its directory too.
local function replace(ctx, entry)
    local ok, err = M.take_back(ctx, entry.replaces)
    local removed, why
    if ok then
        removed, why = create.remove({ agents = ctx.agents, maker = entry.maker }, entry.replaces)
    end
    if ok and not removed then
        term.warn("what an earlier run has copied to %s on host %s could not be removed: %s",
            entry.replaces.datadir, entry.replaces.hostname, tostring(why))
    end
    return ok, err
end

-- Clients that come through foreign servers find the mirror from now on when it has taken over.
local function tell_clients(ctx, content)
    local ok, err = fdw.list_both(ctx, content)
    if not ok then
        term.warn("content %d: its foreign servers do not list the mirror: %s", content,
            tostring(err))
    end
end

--- Adds one mirror. entry.row is its row in the catalog from when there is one.
---@param ctx table {env, cat, agents}
---@param entry AddedMirror
---@param options {progress: function?, max_rate: number?, tablespaces: table?}
---@return table? numbers lib/recovery.lua's
---@return Error? err
function M.add(ctx, entry, options)
    local ok, err = true, nil
    if entry.replaces then
        ok, err = replace(ctx, entry)
    end
    if ok then
        ok, err = host_setup.keep_secret(ctx.agents, ctx.env, { entry.pair.mirror.hostname })
    end
    if ok and not entry.row then
        entry.row, err = register(ctx, entry)
    end
    if not ok or not entry.row then
        return nil, err
    end
    entry.failed.target = entry.row
    local numbers
    numbers, err = recovery.recover(ctx, entry.failed, entry.type, { progress = options.progress,
        max_rate = options.max_rate, tablespaces = options.tablespaces, maker = entry.maker })
    if numbers then
        tell_clients(ctx, entry.pair.content)
    end
    return numbers, err
end

-- What a failure leaves, in words.
local function kept(entry)
    return ("what was copied stays in %s on host %s: the same command goes on from there"):format(
        entry.pair.mirror.datadir, entry.pair.mirror.hostname)
end

--- Takes back what could not be added, once nobody here works on it any more, and says what came
--- of it.
---@param ctx table
---@param entry AddedMirror
function M.clear_up(ctx, entry)
    local mirror = entry.row or entry.pair.mirror
    hold.drop_own(ctx.cat, mirror.content)
    local ok, err = M.take_back(ctx, mirror)
    entry.row = nil
    if ok then
        term.warn("content %d: no mirror was added; %s", mirror.content, kept(entry))
        return
    end
    term.error(mr.error(err.code, "it could not be taken back: " .. err.message, {
        instance = cluster.name(mirror), cause = err,
        hint = "it may still be in the catalog, as down: run addmirrors again" }))
end

--- What an earlier run may have left undone, of mirrors that are there: that foreign servers list
--- them, and that the rows are found without the coordinator.
---@param ctx table
function M.finish(ctx)
    local instances = ctx.cat:instances()
    if not instances then
        return
    end
    reader.remember(ctx.env, instances)
    for _, pair in ipairs(cluster.pairs(instances)) do
        if pair.content >= 0 and pair.mirror then
            tell_clients(ctx, pair.content)
        end
    end
end

return M
