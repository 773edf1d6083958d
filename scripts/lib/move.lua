--- Recovery to another place: what is done around the copy so that an instance lives at another
--- directory, port or host afterwards, and is where it was after a failure.
---
--- The order, and what a kill in between leaves: the new place is noted in the catalog before
--- anything is written there (move_begin); the old server, if its host answers, is stopped; the
--- source lets the new address in; the copy is made, started and seen streaming, under the same
--- dbid and slot; one transition moves the row (move_done) and notes the old place instead; foreign
--- servers follow before the mirror is up, so that whoever comes after a kill finds it down; then
--- pg_hba.conf is cleaned, and what lies at the old place is sealed, and removed once the pair is
--- in sync (lib/left_places.lua). Until the transition the catalog is as before, and a half-made
--- copy is gone on with, or removed when the pair is in sync without it.
---
---     local failed = check(recovery.examine(ctx, pair, place))
---     check(recovery.recover(ctx, failed, "full", {}))
local mr = require("moonrise")
local agents = require("lib.agents")
local alone = require("lib.alone")
local cluster = require("lib.cluster")
local fdw = require("lib.fdw")
local hba = require("lib.hba")
local host_setup = require("lib.host_setup")
local hosts_record = require("lib.hosts_record")
local instance = require("lib.instance")
local merged = require("lib.merged")
local quiet = require("lib.quiet")
local reader = require("lib.reader")
local term = require("lib.term")

local M = {}

-- A host that is gone shall not hold up what was asked for because it is gone.
local OLD_HOST_MS = 10000
local STOP_MS = 10000

-- Steps after those that the begin has given under the same epoch.
local UNDO = { configure = agents.steps.configure + 1, slot = agents.steps.configure + 2,
               stop = agents.steps.start + 1 }

---@class Place
---@field hostname string
---@field address string
---@field port integer
---@field datadir string

--- The row of an instance at another place.
---@param row table
---@param to Place
---@return table
function M.row(row, to)
    return merged(row, M.place(to))
end

--- Whether an instance is at a place.
---@param inst table
---@param place Place
---@return boolean
function M.is_at(inst, place)
    return inst.hostname == place.hostname and inst.port == place.port
        and inst.datadir == place.datadir
end

--- What a place is called in messages.
---@param place Place
---@return string
function M.name(place)
    return ("%s:%d:%s"):format(place.hostname, place.port, place.datadir)
end

--- The place of a row.
---@param row table
---@return Place
function M.place(row)
    return { hostname = row.hostname, address = row.address, port = row.port,
             datadir = row.datadir }
end

--- Warns in a printed plan of a place that is on its primary's host.
---@param to Place
---@param primary table
function M.warn_of_host(to, primary)
    if to.hostname == primary.hostname then
        term.warn("      that is its primary's host: losing the host loses both")
    end
end

local function refuse(failed, message, hint)
    return nil, mr.error("refused", message, { instance = cluster.name(failed.target),
        hint = hint })
end

-- Whether what lies in the new place is an earlier run's, or the instance's own from the days when
-- it lived there.
local function is_own(failed)
    local word, sysid = failed.word, failed.source_word.control.sysid
    local epoch, patch = word.epoch, word.patch
    if patch then
        return patch.sysid == sysid and tonumber(patch.dbid) == failed.target.dbid
    end
    return epoch ~= nil and epoch.valid and epoch.sysid == sysid
        and epoch.dbid == failed.target.dbid
end

local function check_directory(failed)
    local kind = failed.word.kind
    if kind == "missing" or kind == "empty" then
        local free, needed = failed.word.free_bytes, failed.source_word.data_bytes or 0
        if free and free < needed then
            return refuse(failed, ("there is room for %s, its primary has %s"):format(
                term.bytes(free), term.bytes(needed)), "make room there, or name another place")
        end
        return true
    elseif kind ~= "foreign" and is_own(failed) then
        failed.resumes = true
        return true
    end
    return refuse(failed, "its new directory is not empty, and holds nothing of its own",
        "name a directory that is empty or does not exist")
end

-- Two names of a host may lead to one directory; then it is no other place.
local function check_old(ctx, failed)
    local from, target = failed.from, failed.target
    local word = ctx.agents:inspect(from, nil, { timeout_ms = OLD_HOST_MS }) or {}
    if word.identity and word.identity == failed.word.identity
        and (from.hostname ~= target.hostname or from.datadir ~= target.datadir) then
        return refuse(failed, ("its new directory is its old one, %s on host %s"):format(
            from.datadir, from.hostname), "name another directory")
    end
    return word
end

-- Two instances of one host share absolute paths; the old one shall be as it was after a failure.
local function check_tablespaces(failed, old)
    local taken = {}
    if agents.same_host(failed.from.hostname, failed.target.hostname) then
        for _, space in ipairs(old.tablespaces or {}) do
            taken[space.path] = true
        end
    end
    for _, space in ipairs(failed.source_word.tablespaces or {}) do
        if taken[space.path] then
            return refuse(failed, ("tablespace directory %s is in use at its old place"):format(
                space.path), "--tablespace-mapping names another one for the new place")
        end
    end
    return true
end

-- What listens there may be the copy that an earlier run has made, or the mirror at its old place.
local function listens_itself(failed)
    local from, target = failed.from, failed.target
    return failed.resumes and not failed.word.stopped
        or agents.same_host(from.hostname, target.hostname) and from.port == target.port
end

local function check_address(ctx, failed)
    local target, source = failed.target, failed.source
    local there, err = ctx.agents:address(target.hostname, target.address, target.port)
    if not there then
        return nil, err
    elseif not there.known then
        return refuse(failed, ("host %s cannot resolve the address %s (%s)"):format(
            target.hostname, target.address, there.why))
    elseif not there.free and not listens_itself(failed) then
        return refuse(failed, ("no server can listen on port %d of %s there (%s)"):format(
            target.port, target.address, there.why), "name another port")
    end
    local seen
    seen, err = ctx.agents:address(source.hostname, target.address)
    if not seen then
        return nil, err
    elseif not seen.known then
        return refuse(failed, ("its primary's host %s cannot resolve the address %s (%s)"):format(
            source.hostname, target.address, seen.why),
            "pg_hba.conf lets nobody in whose address is not known there")
    end
    return true
end

--- Whether the new place will do; nothing is changed.
---@param ctx table
---@param failed Failed with `from`
---@return Failed? failed with `possible` and `why`
---@return Error? err
function M.check(ctx, failed)
    local ok, err = check_old(ctx, failed)
    if ok then
        ok, err = check_tablespaces(failed, ok)
    end
    if ok then
        ok, err = check_directory(failed)
    end
    if ok then
        ok, err = check_address(ctx, failed)
    end
    if ok then
        ok, err = host_setup.same_programs(ctx,
            { primary = failed.source, mirror = failed.target })
    end
    if not ok then
        return nil, err
    end
    failed.stays = failed.from.hostname == failed.target.hostname
        and failed.from.datadir == failed.target.datadir
    failed.possible = { start = false, full = true, differential = failed.resumes or false }
    failed.why = "there is nothing in the new place to compare with"
    return failed
end

--- Takes a mirror that is up out of its pair: recorded first, then its primary is released.
---@param ctx table
---@param failed Failed
---@param token integer
---@return any ok
---@return Error? err
function M.take_out(ctx, failed, token)
    return alone.go_on(ctx, { content = failed.content, primary = failed.source,
        mirror = failed.from }, token, "it is recovered to another place")
end

-- Both places count while the copy is made.
local function with_new_place(instances, target)
    local list = { target }
    for _, inst in ipairs(instances) do
        table.insert(list, inst)
    end
    return list
end

--- Has the source let the new place in, too.
---@param ctx table
---@param failed Failed
---@param epoch integer
---@return boolean? ok
---@return Error? err
function M.let_in(ctx, failed, epoch)
    local instances, err = ctx.cat:instances()
    local changed
    if instances then
        changed, err = hba.apply(ctx, failed.source, with_new_place(instances, failed.target),
            { epoch = function()
                return epoch
            end })
    end
    if changed == nil then
        return nil, err
    end
    return true
end

-- The old server holds the slot, if it runs. A host that does not answer is none of this run's
-- business: lib/left_places.lua sees to it when it does.
local function stop_old(ctx, failed, epoch)
    local word, err = ctx.agents:inspect(failed.from, nil, { timeout_ms = OLD_HOST_MS })
    if not word then
        term.warn("%s: its old place is not reached (%s); what lies there is seen to when it is",
            cluster.name(failed.from), tostring(err))
        return true
    end
    return quiet.stop(ctx, failed.from, word, epoch)
end

local SLOT_SQL = "select true as there from pg_replication_slots where slot_name = $1"

--- All that comes before the copy.
---@param ctx table
---@param failed Failed
---@param token integer
---@return integer? epoch for the orders of the copy
---@return Error? err
function M.begin(ctx, failed, token)
    local slot, err = instance.ask(ctx.env, failed.source, SLOT_SQL,
        { instance.slot_name(failed.target) })
    if err then
        return nil, err
    end
    local epoch
    epoch, err = ctx.cat:call("move_begin", token, failed.content, failed.target.dbid,
        M.place(failed.target))
    if not epoch then
        return nil, err
    end
    failed.begun = { epoch = epoch, had_slot = slot ~= nil }
    local ok
    ok, err = stop_old(ctx, failed, epoch)
    if ok then
        -- A host that the cluster did not have lacks the password that its mirror streams with.
        ok, err = host_setup.keep_secret(ctx.agents, ctx.env, { failed.target.hostname })
    end
    if ok then
        ok, err = M.let_in(ctx, failed, epoch)
    end
    return ok and epoch, err
end

--- The catalog's row moves. From here on there is no way back.
---@param ctx table
---@param failed Failed
---@param token integer
---@param text string for the history
---@return integer? epoch
---@return Error? err
function M.done(ctx, failed, token, text)
    local epoch, err = hosts_record.joining(ctx, failed.target, function(facts)
        return ctx.cat:call("move_done", token, failed.content, failed.target.dbid,
            M.place(failed.target), text, facts)
    end)
    failed.moved = epoch ~= nil
    return epoch, err
end

-- What the new place has of a server goes on with the next run, but must not run: its catalog row
-- is another.
local function end_copy(ctx, failed)
    local word, err = ctx.agents:inspect(failed.target, nil, { timeout_ms = OLD_HOST_MS })
    if word and not word.stopped and word.epoch and word.epoch.valid then
        return ctx.agents:order(failed.target, "stop", { epoch = failed.begun.epoch,
            step = UNDO.stop, mode = "fast", wait_ms = STOP_MS }, { timeout_ms = STOP_MS + 5000 })
    end
    return word, err
end

local function let_out(ctx, failed)
    local instances, err = ctx.cat:instances()
    local changed
    if instances then
        changed, err = hba.apply(ctx, failed.source, instances, { step = UNDO.configure,
            epoch = function()
                return failed.begun.epoch
            end })
    end
    return changed ~= nil or nil, err
end

local function drop_slot(ctx, failed)
    if failed.begun.had_slot then
        return true
    end
    return ctx.agents:order(failed.source, "slot", { epoch = failed.begun.epoch,
        step = UNDO.slot, create = false, name = instance.slot_name(failed.target) })
end

--- After a failure: everything is as before, but for the half-made copy, which is on record.
---@param ctx table
---@param failed Failed
function M.undo(ctx, failed)
    if not failed.begun or failed.moved then
        return
    end
    for _, step in ipairs({ end_copy, let_out, drop_slot }) do
        local ok, err = step(ctx, failed)
        if not ok then
            term.warn("%s: not everything is as before: %s", cluster.name(failed.from),
                tostring(err))
        end
    end
end

-- What is not so yet is done by the next recoverseg: it goes by what the catalog says.
local function finished(failed, what, ok, err)
    if not ok then
        term.warn("%s: %s: %s; the next moonrise recoverseg tries it again",
            cluster.name(failed.target), what, tostring(err))
    end
end

--- Clients that come through foreign servers follow those that have moved, by this run or by an
--- earlier one.
---@param ctx table
---@param content? integer of this pair only
function M.tell_clients(ctx, content)
    local ok, err = fdw.follow(ctx, content)
    if not ok then
        term.warn("foreign servers may list places that were left: %s; the next moonrise " ..
            "recoverseg tries it again", tostring(err))
    end
end

--- All that comes after the mirror is up but for the old place.
---@param ctx table
---@param failed Failed
---@param token integer
function M.finish(ctx, failed, token)
    local instances, err = ctx.cat:instances()
    if not instances then
        return finished(failed, "the catalog does not answer", nil, err)
    end
    reader.remember(ctx.env, instances)
    finished(failed, "pg_hba.conf", hba.follow(ctx, failed.content, token))
end

return M
