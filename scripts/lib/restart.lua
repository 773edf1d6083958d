--- Restarting instances where they are, under their content's lease.
---
--- The lease's step names the instance that is stopped just then, and is written before it is told
--- to stop: whoever takes the lease over from a killed command starts that one again, and no other.
--- The watcher does so, too, though it starts no server by itself (rule 4): this one was running,
--- and somebody asked for it to run again. Left stopped it would be a failure that nobody had.
local mr = require("moonrise")
local bring_up = require("lib.bring_up")
local cluster = require("lib.cluster")
local handover = require("lib.handover")
local history = require("lib.history")
local hold = require("lib.hold")
local instance = require("lib.instance")
local stop_requests = require("lib.stop_requests")
local streaming = require("lib.streaming")

local M = {}

local CHECKPOINT_DEADLINE_MS = 600000
local FENCE_MARGIN_MS = 10000

local function refuse(inst, message, hint)
    return nil, mr.error("refused", message, { instance = cluster.name(inst), hint = hint })
end

-- What would keep a mirror from being started again is found out while it still runs.
local function mirror_refusal(ctx, pair)
    local mirror = pair.mirror
    local word, err = ctx.agents:inspect(mirror)
    local state
    if word then
        state, err = ctx.cat:pair_state(mirror.content)
    end
    if not state then
        return nil, err
    end
    local reason = instance.start_refusal(history.compare(ctx.agents, word, pair.primary), state)
    if reason then
        return refuse(mirror, "it would not be started again: " .. reason,
            "moonrise recoverseg brings it back")
    end
    return true
end

--- Whether an instance may be restarted now, and how many clients are connected to it (nil when it
--- does not answer).
---@param ctx table {env, cat, agents}
---@param inst table
---@param mode "smart"|"fast"|"immediate"
---@return {clients: integer?}? ready
---@return Error? err
function M.ready(ctx, inst, mode)
    if inst.content == -1 and inst.role == "p" then
        return refuse(inst, "the coordinator holds the catalog, and with it the lease for this",
            "moonrise stop -r restarts the whole cluster; stop -m and start -m it alone")
    elseif inst.status == "d" then
        return refuse(inst, "it is recorded as down", "moonrise recoverseg brings it back")
    end
    local pair, err = ctx.cat:pair(inst.content)
    local ok = pair ~= nil
    if ok and inst.role == "m" then
        ok, err = mirror_refusal(ctx, pair)
    end
    if not ok then
        return nil, err
    end
    local row = instance.ask(ctx.env, inst, instance.CLIENTS_SQL)
    if mode == "smart" and row and row.n > 0 then
        return nil, mr.error("busy", ("%d sessions of clients are open on it"):format(row.n),
            { instance = cluster.name(inst), hint = "end them, or restart it with -M fast" })
    end
    return { clients = row and row.n }
end

-- With little left to write the server is down the sooner.
local function checkpoint(ctx, inst, epoch, options)
    if inst.role ~= "p" or options.mode == "immediate" then
        return
    end
    options.progress(inst, "checkpoint")
    stop_requests.stoppable(function()
        return ctx.agents:order(inst, "checkpoint",
            { epoch = epoch, wait_ms = CHECKPOINT_DEADLINE_MS },
            { timeout_ms = CHECKPOINT_DEADLINE_MS + 5000 })
    end)
end

-- One that is slow to stop is waited for by the start.
local function stop(ctx, inst, epoch, options)
    options.progress(inst, "stopping")
    local done, err = ctx.agents:order(inst, "stop", {
        epoch = epoch, mode = options.mode == "smart" and "fast" or options.mode,
        wait_ms = options.wait_ms, fence = options.mode == "immediate",
    }, { timeout_ms = options.wait_ms + FENCE_MARGIN_MS })
    return done or err.code == "timeout" or nil, err
end

local function start(ctx, pair, inst, token)
    local done, err = handover.start(ctx, inst, token, "restart: start")
    if not done then
        return nil, err
    elseif inst.role == "p" and done.in_recovery then
        return refuse(inst, "it is the catalog's primary and came up in recovery",
            "somebody has put a standby.signal into its directory")
    elseif inst.role == "m" then
        return streaming.confirm(ctx, pair.primary, inst)
    end
    return true
end

-- When it fails the lease ends like any other: what is down then is the watcher's, which fails over
-- to a mirror that is in sync.
local function restart_one(ctx, pair, inst, lease, options)
    local ok, err = lease:set(("dbid %d"):format(inst.dbid))
    local epoch
    if ok then
        epoch, err = ctx.cat:call("epoch_reserve", lease.token, pair.content,
            "restart: stop")
    end
    if not epoch then
        return nil, err
    end
    checkpoint(ctx, inst, epoch, options)
    if stop_requests.asked() then
        return nil, mr.error("cancelled", "stopped before anything was done to it",
            { instance = cluster.name(inst), hint = "run restart again for it" })
    end
    local began = mr.clock()
    if inst.role == "p" then
        ok, err = bring_up.forget_sync(ctx, pair, lease.token)
    end
    if ok then
        ok, err = stop(ctx, inst, epoch, options)
    end
    if ok then
        options.progress(inst, "starting")
        ok, err = start(ctx, pair, inst, lease.token)
    end
    if not ok then
        return nil, err
    end
    local took_ms = mr.clock() - began
    ctx.cat:journal("restart", { content = pair.content, dbid = inst.dbid,
        text = ("dbid %d was restarted (%s) in %d ms"):format(inst.dbid, options.mode, took_ms) })
    return { took_ms = took_ms }
end

-- What is armed stays so, by the primary's own settings; whatever is not so yet is armed now, or by
-- the watcher.
local function settle(ctx, content, token)
    local pair, err = ctx.cat:pair(content)
    if not pair or not pair.mirror or content == -1 or pair.mirror.status ~= "u" then
        return pair ~= nil or nil, err
    end
    local ok
    ok, err = streaming.confirm(ctx, pair.primary, pair.mirror)
    local mirror = { outcome = "started", streaming = true }
    if ok then
        bring_up.settle(ctx, pair, token, mirror)
    end
    return mirror.note or (not ok and tostring(err)) or nil
end

-- The rows as they are now that nobody else may change them.
local function still(ctx, inst)
    local pair, err = ctx.cat:pair(inst.content)
    if not pair then
        return nil, err
    end
    local now = cluster.find({ pair.primary, pair.mirror }, inst.dbid)
    if not now or now.role ~= inst.role or now.status ~= inst.status then
        return refuse(inst, "its pair has changed since the plan was made", "run restart again")
    end
    return pair, now
end

--- Restarts instances of one content, in this order, under its lease. Stops at the first that
--- fails; the others are as they were.
---@param ctx table {env, cat, agents}
---@param list table[] instances of one content as the catalog has them
---@param options {mode: string, wait_ms: integer, progress: fun(inst: table, stage: string)}
---@return {results: table[], note: string?}? done results: {inst, took_ms} in the order of the list;
--- note: why the pair is not in sync yet
---@return Error? err of the instance that it names
function M.run(ctx, list, options)
    local content, results = list[1].content, {}
    return hold.content(ctx, content, "restart", "begun", function(lease)
        for _, planned in ipairs(list) do
            local pair, inst = still(ctx, planned)
            local done, err
            if pair then
                done, err = restart_one(ctx, pair, inst, lease, options)
            end
            if not done then
                return nil, err or inst
            end
            table.insert(results, { inst = planned, took_ms = done.took_ms })
        end
        options.progress(list[#list], "waiting for the pair to be in sync")
        return { results = results, note = settle(ctx, content, lease.token) }
    end)
end

--- Starts again what a killed restart has stopped.
---@param ctx table {env, cat, agents}
---@param pair table
---@param token integer of the lease that was taken over
---@param step string at which it was left
---@return boolean? ok
---@return Error? err
function M.finish(ctx, pair, token, step)
    local dbid = tonumber(step:match("^dbid (%d+)$"))
    local inst = cluster.find({ pair.primary, pair.mirror }, dbid)
    local ok, err = true, nil
    if inst and inst.role == "m" then
        ok, err = mirror_refusal(ctx, pair)
    end
    if inst and ok then
        ok, err = handover.start(ctx, inst, token, "a restart that was left is finished")
    end
    return ok and true or nil, err
end

return M
