--- One cycle of the watcher: every instance is probed anew, and what follows from it is done.
---
--- `watch --once` is one, and ends with it. Beside a watcher that holds the lease it asks that one
--- through the catalog, where what was asked for and what was done are two numbers.
local mr = require("moonrise")
local term = require("lib.term")

local M = {}

local LOOK_MS = 200

-- A pair in one of these has something to wait for yet.
local UNSETTLED = { unseen = true, promoting = true, primary_lost = true, mirror_lost = true,
                    abandoned = true }

local function pair_settled(pair)
    local memory = pair.memory
    local state = memory.state
    -- What was seen since the catalog was looked at has not been judged.
    if pair.unlooked or not state or (UNSETTLED[state] and not (pair.pause and memory.refused))
        or (state == "catching_up" and not memory.retry.arm) then
        return false
    end
    for key in pairs(memory.tasks) do
        if key ~= "fdw" then
            return false
        end
    end
    return true
end

local function complete(w)
    for dbid in pairs(w.cycle.left) do
        if w.targets[dbid] then
            return false
        end
    end
    for _, pair in pairs(w.pairs) do
        if not pair_settled(pair) then
            return false
        end
    end
    return true
end

--- Begins a cycle, if one is wanted and this watcher leads.
---@param w Watcher
---@param snapshot table lib/lease.lua's
function M.begin(w, snapshot)
    local own = w.once and not w.once.done
    if w.cycle or not w:leads() or not (own or snapshot.cycle) then
        return
    end
    -- Probes tell their times in whole milliseconds.
    w.cycle = { number = snapshot.cycle, begun = math.floor(mr.clock()), left = {} }
    for dbid in pairs(w.targets) do
        w.cycle.left[dbid] = true
        w.prober:now(dbid)
    end
end

--- Takes note of a probe: it counts when it was begun after the cycle, and on a fresh session,
--- since a server whose postmaster hangs answers on the ones it has.
---@param w Watcher
---@param seen table an observation
function M.saw(w, seen)
    if w.cycle and seen.fresh and seen.at - (seen.took or 0) >= w.cycle.begun then
        w.cycle.left[seen.dbid] = nil
    end
end

--- Ends the cycle when everything was seen and nothing is left to do.
---@param w Watcher
function M.finish(w)
    if not w.cycle or not w:leads() or not complete(w) then
        return
    end
    local number, cat = w.cycle.number, w.lease.cat
    w.cycle = nil
    if w.once then
        w.once.done = true
    end
    -- Should that fail, the next look at the catalog asks for another one.
    if number and cat then
        mr.spawn(cat.call, cat, "cycle_done", number)
    end
end

local STATE_SQL = [[
select c.done, s.watcher from moonrise.watch_cycle c, moonrise.cluster_state s]]

--- Has whoever holds the lease do the cycle, and looks whether it did. Waits; from the task that
--- keeps the lease.
---@param w Watcher of --once, which the lease was refused
---@return boolean? asked
---@return Error? err
function M.ask_holder(w)
    local once, cat = w.once, w.lease.cat
    local rows, err = cat:query(STATE_SQL)
    if not rows then
        return nil, err
    end
    once.holder = rows[1].watcher
    if not once.number then
        once.number, err = cat:call("cycle_request")
        if once.number then
            term.info("%s watches: it is asked for a cycle", once.holder)
        end
        return once.number ~= nil or nil, err
    elseif rows[1].done >= once.number then
        w.events:push({ kind = "cycled" })
    end
    return true
end

--- Runs a watcher for one cycle, its own or the holder's.
---@param w Watcher
---@param deadline_ms number
---@return boolean done false when it was not all settled in that time
---@return string? why
function M.run(w, deadline_ms)
    w.once, w.look_ms = {}, LOOK_MS
    w:begin()
    local deadline = mr.clock() + deadline_ms
    while not w.stopping and not w.once.done and mr.clock() < deadline do
        w:turn()
    end
    local led, once = w:leads(), w.once
    w:finish()
    if once.done then
        return true
    elseif led then
        return false, "not everything settled in time"
    elseif once.holder then
        return false, ("%s watches, and has not finished a cycle in time"):format(once.holder)
    end
    return false, w.told_lost or "the lease was not to be had"
end

return M
