--- Handing a pair over: primary and mirror change places without a byte being copied.
---
--- The order is SAFETY.md's "Handing over". Up to the catalog's role change everything can be
--- undone by starting the old primary again; after it, only forwards. The lease's step, which
--- changes in the same transaction as the roles, says on which side of that line we are;
--- handover_resume.lua finishes or undoes by it what a killed runbook left:
---   "stopping"  the catalog is unchanged: start the old primary again
---   "handed"    the catalog is changed: promote, then start the old primary as the mirror
local mr = require("moonrise")
local agents = require("lib.agents")
local arming = require("lib.arming")
local cluster = require("lib.cluster")
local fdw = require("lib.fdw")
local hold = require("lib.hold")
local instance = require("lib.instance")
local stop_requests = require("lib.stop_requests")
local streaming = require("lib.streaming")
local term = require("lib.term")
local wait = require("lib.wait")

local M = {}

--- How far a mirror's replay may be behind where nothing else is said.
M.MAX_LAG_BYTES = 64 * 2 ^ 20

local STOP_DEADLINE_MS = 8000
local FLUSH_DEADLINE_MS = 3000
local START_DEADLINE_MS = 60000
local CHECKPOINT_DEADLINE_MS = 600000
local REPLAY_DEADLINE_MS = 120000
local REPLAY_STALL_MS = 10000
local CHECK_DEADLINE_MS = 5000
local PROMOTE_DEADLINE_MS = 60000
local ARM_DEADLINE_MS = 10000

local function refuse(pair, message, hint)
    return nil, mr.error("refused", message, { instance = cluster.name(pair.primary), hint = hint })
end

local LAG_SQL = [[
select pg_wal_lsn_diff(s.flush_lsn, s.replay_lsn)::float8 as replay_bytes
from pg_replication_slots r join pg_stat_replication s on s.pid = r.active_pid
where r.slot_name = $1]]

--- Whether the pair can be handed over now: up, in sync, and its mirror fit to be promoted.
---@param ctx table
---@param pair table
---@param max_lag_bytes number of the mirror's replay
---@return {replay_bytes: number}? ready how far the mirror's replay is behind
---@return Error? err
function M.ready(ctx, pair, max_lag_bytes)
    if not pair.mirror then
        return refuse(pair, "it has no mirror")
    elseif pair.mirror.status ~= "u" or pair.mirror.mode ~= "s" then
        return refuse(pair, "its mirror is not up and in sync",
            "recover it first: moonrise recoverseg; then moonrise state -m until Synchronized")
    end
    -- A mirror whose primary has just started connects within half a second.
    local row, err = wait.eventually(CHECK_DEADLINE_MS, 50, function()
        local found, problem = instance.ask(ctx.env, pair.primary, LAG_SQL,
            { instance.slot_name(pair.mirror) })
        return found, problem or mr.error("refused", "its mirror is not connected to it",
            { instance = cluster.name(pair.primary),
              hint = "moonrise state -m shows when it is; the mirror's log says why it is not" })
    end)
    if not row then
        return nil, err
    elseif row.replay_bytes > max_lag_bytes then
        return refuse(pair, ("the mirror's replay is %s behind, more than %s")
            :format(term.bytes(row.replay_bytes), term.bytes(max_lag_bytes)),
            "wait for it, or raise --replay-lag")
    end
    local ok
    ok, err = arming.fit(ctx, pair, max_lag_bytes, CHECK_DEADLINE_MS)
    if not ok and err.code == "refused" then
        err = mr.error(err.code, err.message, { instance = err.instance, cause = err.cause,
            hint = "nothing was stopped: mend that and run it again" })
    end
    return ok and row, err
end

-- A server that is shutting down is waited for: told to start now it would only say that it runs.
local function wait_stopped(ctx, inst)
    local deadline = mr.clock() + START_DEADLINE_MS
    while true do
        local word, err = ctx.agents:inspect(inst)
        if not word then
            return nil, err
        elseif word.stopped or not word.postmaster or word.postmaster.status ~= "stopping" then
            return word
        elseif mr.clock() > deadline then
            return nil, mr.error("timeout", "it has been shutting down for too long",
                { instance = cluster.name(inst) })
        end
        mr.sleep(50)
    end
end

--- Starts an instance under a fresh epoch, unless it runs.
---@param ctx table
---@param inst table
---@param token? integer
---@param reason string
---@return table? done the order's result
---@return Error? err
function M.start(ctx, inst, token, reason)
    local word, err = wait_stopped(ctx, inst)
    local epoch
    if word then
        epoch, err = ctx.cat:call("epoch_reserve", token, inst.content, reason)
    end
    if not epoch then
        return nil, err
    end
    return ctx.agents:order(inst, "start", {
        epoch = epoch, listen = instance.listen(inst), wait_ms = START_DEADLINE_MS,
    }, { timeout_ms = START_DEADLINE_MS + 5000 })
end

local RECEIVED_SQL =
    "select pg_last_wal_receive_lsn() as lsn, pg_is_wal_replay_paused() as paused"

-- Where the mirror stands once it has flushed the very end of the shutdown checkpoint. This is the
-- last moment for anything to be undone, so what would refuse the promotion is asked again.
local function wait_flushed(ctx, mirror, shutdown_end)
    local deadline = mr.clock() + FLUSH_DEADLINE_MS
    local conn, err = mr.connect(instance.conninfo(ctx.env, mirror, { connect_timeout_ms = 3000 }))
    if not conn then
        return nil, err
    end
    local seen
    repeat
        local rows
        rows, err = conn:query(RECEIVED_SQL, nil, { timeout_ms = 2000 })
        seen = rows and rows[1] and rows[1].lsn or seen
        if rows and rows[1].paused then
            conn:close()
            return nil, mr.error("refused", "its replay has been paused",
                { instance = cluster.name(mirror) })
        elseif rows and seen == shutdown_end then
            conn:close()
            return seen
        end
        mr.sleep(5)
    until mr.clock() > deadline
    conn:close()
    return nil, mr.error("refused",
        ("the mirror has flushed up to %s, the shutdown checkpoint ends at %s")
            :format(seen and mr.lsn_text(seen) or "nothing", mr.lsn_text(shutdown_end)),
        { cause = err })
end

local function stop_primary(ctx, pair, epoch)
    local stopped, err = ctx.agents:order(pair.primary, "stop",
        { epoch = epoch, mode = "fast", wait_ms = STOP_DEADLINE_MS },
        { timeout_ms = STOP_DEADLINE_MS + 5000 })
    if not stopped then
        return nil, err
    elseif not stopped.stopped or not stopped.shutdown_end then
        return nil, mr.error("refused", "the primary did not shut down cleanly in time",
            { instance = cluster.name(pair.primary) })
    end
    return stopped
end

--- Promotes the pair's new primary, and records where. Can be repeated.
---@param ctx table
---@param pair table with the new roles
---@param token integer
---@param flush_lsn string the position that the new primary must have
---@return boolean? ok
---@return Error? err
function M.promote(ctx, pair, token, flush_lsn)
    local state, err = ctx.cat:pair_state(pair.content)
    if not state then
        return nil, err
    end
    -- What was ordered of it in between bears an epoch newer than the change of roles.
    local epoch
    epoch, err = ctx.cat:call("epoch_reserve", token, pair.content, "handover: promote")
    if not epoch then
        return nil, err
    end
    local promoted
    promoted, err = ctx.agents:order(pair.primary, "promote", {
        epoch = epoch, flush_lsn = flush_lsn, slot = instance.slot_name(pair.mirror),
        wait_ms = PROMOTE_DEADLINE_MS,
    }, { timeout_ms = PROMOTE_DEADLINE_MS + 5000 })
    if not promoted then
        return nil, err
    end
    -- Without its record the new timeline would pass for somebody else's promotion.
    local told
    told, err = ctx.cat:call("promoted", token, pair.content, state.role_epoch, promoted.timeline,
        promoted.switch_lsn)
    if not told then
        return nil, err
    end
    fdw.point(ctx, pair)
    return true
end

-- The old primary, shut down where its successor goes on, needs no copy to follow it.
local function follow(ctx, pair, token)
    local spec = instance.standby_spec(ctx.env, pair.mirror, pair.primary)
    local epoch, err = ctx.cat:call("epoch_reserve", token, pair.content,
        "handover: old primary follows")
    if not epoch then
        return nil, err
    end
    local ok
    ok, err = ctx.agents:order(pair.mirror, "configure",
        { epoch = epoch, settings = spec.settings, standby = true })
    if not ok then
        return nil, err
    end
    ok, err = ctx.agents:order(pair.mirror, "start", {
        epoch = epoch, listen = spec.listen, wait_ms = START_DEADLINE_MS,
    }, { timeout_ms = START_DEADLINE_MS + 5000 })
    if ok then
        ok, err = streaming.confirm(ctx, pair.primary, pair.mirror)
    end
    if not ok then
        return nil, err
    end
    -- The slot that it had for its mirror as a primary would pin WAL on it for ever.
    return ctx.agents:order(pair.mirror, "slot", {
        epoch = epoch, step = agents.steps.start + 1, create = false,
        name = instance.slot_name(pair.primary),
    })
end

--- The last part: the old primary becomes the mirror of the new one. Can be repeated.
---@param ctx table
---@param pair table with the new roles
---@param token integer
---@return boolean? armed whether the pair is in sync already; nil when the mirror does not stream
---@return Error? err
function M.turn_old(ctx, pair, token)
    local ok, err = follow(ctx, pair, token)
    if ok then
        ok, err = ctx.cat:call("mirror_up", token, pair.content, "handed over")
    end
    if not ok then
        return nil, err
    end
    local armed, arm_err = arming.arm_within(ctx, pair, token, ARM_DEADLINE_MS)
    if not armed then
        term.debug("content %d: not in sync yet: %s", pair.content, tostring(arm_err))
    end
    return armed and true or false
end

-- First half: the primary is shut down, and the mirror has the last byte of it. Otherwise it is
-- started again and nothing has changed.
local function shut_down(ctx, pair, lease, epoch)
    local stopped, err = stop_primary(ctx, pair, epoch)
    if stopped then
        local flushed, ok
        flushed, err = wait_flushed(ctx, pair.mirror, mr.lsn(stopped.shutdown_end))
        if flushed then
            ok, err = ctx.cat:call("hand_over", lease.token, pair.content,
                { shutdown_end = stopped.shutdown_end, flush_lsn = mr.lsn_text(flushed),
                  timeline = stopped.timeline })
        end
        if ok then
            return stopped.shutdown_end
        end
    end
    local again, start_err = M.start(ctx, pair.primary, lease.token,
        "handover undone: " .. tostring(err))
    if not again then
        lease.keep = true
        return nil, mr.error("refused", ("the old primary could not be started again: %s")
            :format(start_err.message), { cause = start_err, instance = cluster.name(pair.primary),
                hint = "the watcher tries it too; moonrise start" })
    end
    return nil, err
end

local PRIMARY_END_SQL = "select pg_current_wal_flush_lsn() as lsn"
local REPLAYED_SQL = "select pg_last_wal_replay_lsn() as lsn"

local function replay_refusal(pair, since, moved)
    local now = mr.clock()
    if stop_requests.asked() then
        return mr.error("cancelled", "stopped before anything was done to it",
            { instance = cluster.name(pair.primary) })
    elseif now - moved > REPLAY_STALL_MS or now - since > REPLAY_DEADLINE_MS then
        return mr.error("refused", ("it has not replayed what was written before the checkpoint "
            .. "within %s"):format(term.duration(now - since)),
            { instance = cluster.name(pair.mirror), hint = "nothing was stopped; does a long "
                .. "query on the mirror hold up the replay?" })
    end
    return nil
end

-- What is not replayed yet when the primary stops is replayed while the writers wait.
local function wait_replayed(ctx, pair)
    return arming.with_both(ctx, pair, function(conns)
        local target, err = instance.first_row(conns.primary, PRIMARY_END_SQL)
        local since, moved, last = mr.clock(), mr.clock(), nil
        while target do
            local row
            row, err = instance.first_row(conns.mirror, REPLAYED_SQL)
            if row and row.lsn and row.lsn >= target.lsn then
                return true
            elseif row and row.lsn ~= last then
                last, moved = row.lsn, mr.clock()
            end
            err = not row and err or replay_refusal(pair, since, moved)
            if err then
                break
            end
            mr.sleep(20)
        end
        return nil, err
    end)
end

-- All that can take long and changes nothing, before the writers stall.
local function prepare(ctx, pair, epoch, options)
    options.progress("checkpoint")
    local done, err = stop_requests.stoppable(function()
        return ctx.agents:order(pair.primary, "checkpoint",
            { epoch = epoch, wait_ms = CHECKPOINT_DEADLINE_MS },
            { timeout_ms = CHECKPOINT_DEADLINE_MS + 5000 })
    end)
    if done then
        options.progress("waiting for the replay")
        done, err = wait_replayed(ctx, pair)
    end
    if done then
        done, err = M.ready(ctx, pair, options.max_lag_bytes)
    end
    return done, err
end

-- Everything under the lease. The stall of the pair's writers is from the stop to the promotion.
local function hand_over(ctx, pair, lease, options)
    local epoch, err = ctx.cat:call("epoch_reserve", lease.token, pair.content, "handover")
    local ok
    if epoch then
        ok, err = prepare(ctx, pair, epoch, options)
    end
    if not ok then
        return nil, err
    end
    local began = mr.clock()
    options.progress("stopping the primary")
    local shutdown_end
    shutdown_end, err = shut_down(ctx, pair, lease, epoch)
    if not shutdown_end then
        return nil, err
    end
    lease:set("handed")
    options.progress("promoting the mirror")
    local turned = { content = pair.content, primary = pair.mirror, mirror = pair.primary }
    ok, err = M.promote(ctx, turned, lease.token, shutdown_end)
    local writable_at, armed = mr.clock(), nil
    if ok then
        options.progress("starting the new mirror")
        armed, err = M.turn_old(ctx, turned, lease.token)
    end
    if armed == nil then
        lease.keep = true
        return nil, err
    end
    return { stall_ms = writable_at - began, armed = armed }
end

-- The rows as they are now that nobody else may change them.
local function current(ctx, pair)
    local found, err = ctx.cat:pair(pair.content)
    if found and found.primary.dbid ~= pair.primary.dbid then
        return refuse(pair, "its role has changed since the plan was made")
    end
    return found, err
end

--- Hands a pair over under its content's lease.
---@param ctx table
---@param pair table as the plan has it
---@param options {max_lag_bytes: number?, progress: function?}
---@return {stall_ms: number, armed: boolean}? times
---@return Error? err
function M.run(ctx, pair, options)
    local given = { max_lag_bytes = options.max_lag_bytes or M.MAX_LAG_BYTES,
                    progress = options.progress or function() end }
    return hold.content(ctx, pair.content, "handover", "stopping", function(lease)
        local now, err = current(ctx, pair)
        local ok
        if now then
            ok, err = M.ready(ctx, now, given.max_lag_bytes)
        end
        if not ok then
            return nil, err
        end
        return hand_over(ctx, now, lease, given)
    end)
end

return M
