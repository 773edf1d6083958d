--- Moving a mirror that is up, without losing its protection while it is copied.
---
--- The mirror at the old place goes on as it is: it streams, commits wait for it, the watcher may
--- promote it. Beside it a second standby is made at the new place, from the primary: noted in the
--- catalog first (left_place, held as long as this goes on), copied, started and caught up, with a
--- slot of its own (mr_slot_DBID_next) and under the bare name, for which no commit ever waits: the
--- synchronous name is that of the mirror at the old place alone (SAFETY.md, rule 1). It listens
--- nowhere yet, so it may have the port that the mirror has at its old place. No lease is held
--- meanwhile, so a failover is as quick as ever; it ends the move, since the pair is not the one
--- that was planned.
---
--- Only then, under the content's lease, comes what any recovery to another place does
--- (lib/recovery.lua, lib/move.lua), with the copy left out: the pair is recorded as d/n, the
--- primary released, the old server stopped. The new one takes its slot, which has held all WAL
--- since then, while its own holds what it lacks before that, and is started anew to listen. Once
--- it streams from there the row moves, the mirror is up, and the pair is armed with a new name.
--- That takes a second or two, however big the data are, and it is the time for which the pair is
--- without protection.
---
--- What a kill leaves: before the switch a copy that is noted, beside a pair in sync, and a slot
--- that max_slot_wal_keep_size bounds; the next run of the same file goes on with it, and the
--- watcher or recoverseg removes both. In the switch a mirror that is down, with its row at the old
--- place or at the new one: it is started again by recoverseg, or by the next run.
local mr = require("moonrise")
local agents = require("lib.agents")
local as_planned = require("lib.as_planned")
local busy_places = require("lib.busy_places")
local cluster = require("lib.cluster")
local finally = require("lib.finally")
local hba = require("lib.hba")
local hold = require("lib.hold")
local host_setup = require("lib.host_setup")
local instance = require("lib.instance")
local move = require("lib.move")
local quiet = require("lib.quiet")
local recovery_copy = require("lib.recovery_copy")
local streaming = require("lib.streaming")
local term = require("lib.term")

local M = {}

local INTENT = "movemirrors"
local WORD_MS, STREAM_MS = 10000, 60000
local HELD, RENEW_MS = "30 seconds", 8000
-- Orders to the primary come after those of lib/move.lua under the same epoch.
local DROP_STEP = agents.steps.configure + 3

local function hold_place(ctx, failed, ttl)
    local target = failed.target
    return ctx.cat:call("place_hold", target.dbid, target.hostname, target.datadir, hold.holder(),
        ttl)
end

--- Runs fn() while the new place is this process's: what lies there is nothing that was left.
---@param ctx table {cat}
---@param failed Failed
---@param fn function
---@return any ... what fn returned
function M.holding(ctx, failed, fn)
    local over, asking = false, false
    local renewer = mr.spawn(function()
        while not over do
            mr.sleep(RENEW_MS)
            if not over then
                asking = true
                hold_place(ctx, failed, HELD)
                asking = false
            end
        end
    end)
    return finally(function()
        over = true
        -- A statement that is withdrawn would take the catalog's session with it.
        if not asking then
            renewer:cancel()
        end
        hold_place(ctx, failed, "0 seconds")
    end, fn)
end

-- The new place is noted, and let in.
local function begin(ctx, failed)
    return hold.content(ctx, failed.content, INTENT, "begin", function(lease)
        local ok, err = as_planned(ctx, failed, "u")
        if ok then
            ok, err = busy_places.release_orphans(ctx, failed.content)
        end
        local epoch
        if ok then
            epoch, err = ctx.cat:call("move_begin", lease.token, failed.content,
                failed.target.dbid, move.place(failed.target), hold.holder())
        end
        if epoch then
            failed.noted = true
            ok, err = hold_place(ctx, failed, HELD)
        end
        if epoch and ok then
            ok, err = move.let_in(ctx, failed, epoch)
        end
        return ok and epoch or nil, err
    end)
end

-- What an earlier run has made may stream already.
local function streams(ctx, failed)
    local word, err = ctx.agents:inspect(failed.target)
    if not word then
        return nil, err
    end
    failed.word = word
    return not word.stopped and word.standby_signal and quiet.runs(word)
        and streaming.holds(ctx, failed.source, instance.next_slot_name(failed.target)) or false
end

local function copy(ctx, failed, epoch, options)
    return recovery_copy.make(ctx, failed, recovery_copy.cheapest(failed), epoch,
        setmetatable({ beside = true }, { __index = options }))
end

--- Makes the copy and has it caught up; the pair is as before.
---@param ctx table {env, cat, agents}
---@param failed Failed with `from`
---@param options CopyOptions
---@return table? numbers
---@return Error? err
function M.prepare(ctx, failed, options)
    local ok, err = host_setup.keep_secret(ctx.agents, ctx.env, { failed.target.hostname })
    local epoch
    if ok then
        epoch, err = begin(ctx, failed)
    end
    local there
    if epoch then
        there, err = streams(ctx, failed)
    end
    if there == nil then
        return nil, err
    end
    local numbers = { bytes_written = 0 }
    if not there then
        numbers, err = copy(ctx, failed, epoch, options)
    end
    if numbers then
        ok, err = streaming.confirm(ctx, failed.source, failed.target,
            instance.next_slot_name(failed.target))
    end
    return ok and numbers or nil, err
end

--- The copy becomes the mirror: it takes the slot of the one that was stopped. lib/recovery.lua
--- calls it in the place of a copy.
---@param ctx table
---@param failed Failed
---@param epoch integer
---@return table? numbers
---@return Error? err
function M.switch(ctx, failed, epoch)
    local slot = instance.slot_name(failed.target)
    local done, err = ctx.agents:order(failed.target, "follow", { epoch = epoch, slot = slot,
        conninfo = instance.primary_conninfo(ctx.env, failed.target, failed.source) })
    if done then
        done, err = ctx.agents:order(failed.target, "start", { epoch = epoch,
            listen = instance.listen(failed.target), wait_ms = STREAM_MS },
            { timeout_ms = STREAM_MS + 5000 })
    end
    if not done then
        return nil, err
    end
    return { bytes_written = 0 }
end

local function drop_slot(ctx, failed, epoch)
    return ctx.agents:order(failed.source, "slot", { epoch = epoch, step = DROP_STEP,
        create = false, name = instance.next_slot_name(failed.target) })
end

-- Whoever takes the content next has it done by the time that the pair changes again.
local function under_lease(ctx, failed, step, fn)
    return hold.content(ctx, failed.content, INTENT, step, function(lease)
        local epoch, err = ctx.cat:call("epoch_reserve", lease.token, failed.content,
            ("movemirrors: %s"):format(step))
        if not epoch then
            return nil, err
        end
        return fn(epoch, lease.token)
    end)
end

--- Drops the slot that the copy had, unless it is that of another move by now.
---@param ctx table
---@param failed Failed
function M.finish(ctx, failed)
    local ok, err = under_lease(ctx, failed, "drop the slot of the copy", function(epoch)
        local others, why = busy_places.of_others(ctx, failed.content)
        if not others then
            return nil, why
        end
        return #others > 0 or drop_slot(ctx, failed, epoch)
    end)
    if not ok then
        term.warn("%s: its slot %s stays (%s): movemirrors drops it when it is run again",
            cluster.name(failed.source), instance.next_slot_name(failed.target), tostring(err))
    end
end

--- After a failure: the copy must not run, and holds no WAL; what was copied stays for the next
--- run. The slot may be that of somebody else's copy: where nothing was begun, or since then.
---@param ctx table
---@param failed Failed
---@return any ok
---@return Error? err
function M.undo(ctx, failed)
    if not failed.noted then
        return true
    end
    return under_lease(ctx, failed, "take the copy back", function(epoch, token)
        local others, err = busy_places.of_others(ctx, failed.content)
        if not others or #others > 0 then
            return others and true, err
        end
        local word
        word, err = ctx.agents:inspect(failed.target, nil, { timeout_ms = WORD_MS })
        local ok = true
        if word and not word.stopped and word.epoch and word.epoch.valid then
            ok, err = ctx.agents:order(failed.target, "fence", { epoch = epoch })
        end
        if ok then
            ok, err = drop_slot(ctx, failed, epoch)
        end
        if ok then
            ok, err = hba.follow(ctx, failed.content, token)
        end
        return ok, err
    end)
end

return M
