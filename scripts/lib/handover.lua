--- Handing a pair over: primary and mirror change places without a byte being copied.
---
--- The order is SAFETY.md's "Handing over". Up to the catalog's role change everything can be
--- undone by starting the old primary again; after it, only forwards. The lease's step says on
--- which side of that line we are, so that the watcher can finish or undo what a killed runbook
--- left:
---   "stopping"  the catalog is unchanged: start the old primary again
---   "handed"    the catalog is changed: promote, then start the old primary as the mirror
local mr = require("moonrise")
local agents = require("lib.agents")
local arming = require("lib.arming")
local cluster = require("lib.cluster")
local fdw = require("lib.fdw")
local hold = require("lib.hold")
local instance = require("lib.instance")
local term = require("lib.term")

local M = {}

M.STOP_DEADLINE_MS = 8000
local FLUSH_DEADLINE_MS = 3000
local START_DEADLINE_MS = 60000
local CHECKPOINT_DEADLINE_MS = 600000
local ARM_DEADLINE_MS = 10000

local function refuse(pair, message, hint)
    return nil, mr.error("refused", message, { instance = cluster.name(pair.primary), hint = hint })
end

-- What a mirror says of itself, asked on its own socket.
local function ask(ctx, inst, sql)
    local conn, err = mr.connect(instance.conninfo(ctx.env, inst, { connect_timeout_ms = 3000 }))
    if not conn then
        return nil, err
    end
    local rows
    rows, err = conn:query(sql, nil, { timeout_ms = 3000 })
    conn:close()
    return rows and rows[1], err
end

local LAG_SQL = [[
select pg_wal_lsn_diff(s.flush_lsn, s.replay_lsn)::float8 as replay_bytes,
       pg_wal_lsn_diff(pg_current_wal_flush_lsn(), s.flush_lsn)::float8 as flush_bytes
from pg_replication_slots r join pg_stat_replication s on s.pid = r.active_pid
where r.slot_name = ']]

--- Whether the pair can be handed over now: up, in sync, and the mirror's replay not too far
--- behind.
---@param ctx table
---@param pair table
---@param max_lag_bytes number
---@return boolean? ok
---@return Error? err
function M.ready(ctx, pair, max_lag_bytes)
    if not pair.mirror then
        return refuse(pair, "it has no mirror")
    elseif pair.mirror.status ~= "u" or pair.mirror.mode ~= "s" then
        return refuse(pair, "its mirror is not up and in sync",
            "recover it first: moonrise recoverseg; then moonrise state -m until Synchronized")
    end
    local row, err = ask(ctx, pair.primary, LAG_SQL .. instance.slot_name(pair.mirror) .. "'")
    if not row then
        return nil, err or mr.error("refused", "no WAL sender of the mirror is active",
            { instance = cluster.name(pair.primary) })
    elseif row.replay_bytes > max_lag_bytes then
        return refuse(pair, ("the mirror's replay is %s behind, more than %s")
            :format(term.bytes(row.replay_bytes), term.bytes(max_lag_bytes)),
            "wait for it, or raise --replay-lag")
    end
    return true
end

local function start_again(ctx, pair, token, why)
    local epoch, err = ctx.cat:call("epoch_reserve", token, pair.content,
        "handover undone: " .. why)
    if not epoch then
        return nil, err
    end
    return ctx.agents:order(pair.primary, "start", {
        epoch = epoch, listen = instance.listen(pair.primary), wait_ms = START_DEADLINE_MS,
    }, { timeout_ms = START_DEADLINE_MS + 5000 })
end

-- True once the mirror has flushed the very end of the shutdown checkpoint and stands there.
local function wait_flushed(ctx, mirror, shutdown_end)
    local deadline = mr.clock() + FLUSH_DEADLINE_MS
    local conn, err = mr.connect(instance.conninfo(ctx.env, mirror, { connect_timeout_ms = 3000 }))
    if not conn then
        return nil, err
    end
    local seen
    repeat
        local rows
        rows, err = conn:query("select pg_last_wal_receive_lsn() as lsn", nil,
            { timeout_ms = 2000 })
        seen = rows and rows[1] and rows[1].lsn or seen
        if rows and seen == shutdown_end then
            conn:close()
            return true
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
        { epoch = epoch, mode = "fast", wait_ms = M.STOP_DEADLINE_MS },
        { timeout_ms = M.STOP_DEADLINE_MS + 5000 })
    if not stopped then
        return nil, err
    elseif not stopped.stopped or not stopped.shutdown_end then
        return nil, mr.error("refused", "the primary did not shut down cleanly in time",
            { instance = cluster.name(pair.primary) })
    end
    return stopped
end

local function promote(ctx, pair, token, flush_lsn)
    local state, err = ctx.cat:pair_state(pair.content)
    if not state then
        return nil, err
    end
    local promoted
    promoted, err = ctx.agents:order(pair.primary, "promote", {
        epoch = state.role_epoch, flush_lsn = flush_lsn, slot = instance.slot_name(pair.mirror),
    })
    if not promoted then
        return nil, err
    end
    ctx.cat:call("promoted", token, pair.content, state.role_epoch, promoted.timeline,
        promoted.switch_lsn)
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
    if not ok then
        return nil, err
    end
    -- The slot that it had for its mirror as a primary would pin WAL on it for ever.
    return ctx.agents:order(pair.mirror, "slot", {
        epoch = epoch, step = agents.steps.start + 1, create = false,
        name = instance.slot_name(pair.primary),
    })
end

--- Second half: the catalog says that the roles are changed; makes it so. Can be repeated.
---@param ctx table
---@param pair table with the *new* roles: pair.primary is to be promoted, pair.mirror was the primary
---@param token integer
---@param flush_lsn string the position that the new primary must have
---@return {writable_at: number, armed: boolean}? times
---@return Error? err
function M.finish(ctx, pair, token, flush_lsn)
    local ok, err = promote(ctx, pair, token, flush_lsn)
    if not ok then
        return nil, err
    end
    local writable_at = mr.clock()
    fdw.point(ctx, pair)
    ok, err = follow(ctx, pair, token)
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
    return { writable_at = writable_at, armed = armed and true or false }
end

-- First half: the primary is shut down, and the mirror has the last byte of it. Otherwise it is
-- started again and nothing has changed.
local function shut_down(ctx, pair, lease, epoch)
    local stopped, err = stop_primary(ctx, pair, epoch)
    if stopped then
        local ok
        ok, err = wait_flushed(ctx, pair.mirror, mr.lsn(stopped.shutdown_end))
        if ok then
            ok, err = ctx.cat:call("hand_over", lease.token, pair.content,
                { shutdown_end = stopped.shutdown_end, timeline = stopped.timeline })
        end
        if ok then
            return stopped.shutdown_end
        end
    end
    local again, start_err = start_again(ctx, pair, lease.token, tostring(err))
    if not again then
        lease.keep = true
        return nil, mr.error("refused", "the old primary could not be started again",
            { cause = start_err, hint = "the watcher tries it too; moonrise start" })
    end
    return nil, err
end

-- Everything under the lease. The stall of the pair's writers is from the stop to the promotion.
local function hand_over(ctx, pair, lease, progress)
    local epoch, err = ctx.cat:call("epoch_reserve", lease.token, pair.content, "handover")
    if not epoch then
        return nil, err
    end
    progress("checkpoint")
    local ok
    ok, err = ctx.agents:order(pair.primary, "checkpoint", { epoch = epoch },
        { timeout_ms = CHECKPOINT_DEADLINE_MS })
    if not ok then
        return nil, err
    end
    local began = mr.clock()
    progress("stopping the primary")
    local shutdown_end
    shutdown_end, err = shut_down(ctx, pair, lease, epoch)
    if not shutdown_end then
        return nil, err
    end
    lease:set("handed")
    progress("promoting the mirror")
    local turned = { content = pair.content, primary = pair.mirror, mirror = pair.primary }
    local times
    times, err = M.finish(ctx, turned, lease.token, shutdown_end)
    if not times then
        lease.keep = true
        return nil, err
    end
    times.stall_ms = times.writable_at - began
    return times
end

--- Hands a pair over under its content's lease.
---@param ctx table
---@param pair table
---@param options {max_lag_bytes: number?, progress: function?}
---@return {stall_ms: number, armed: boolean}? times
---@return Error? err
function M.run(ctx, pair, options)
    local ok, err = M.ready(ctx, pair, options.max_lag_bytes or 64 * 2 ^ 20)
    if not ok then
        return nil, err
    end
    local progress = options.progress or function() end
    return hold.content(ctx, pair.content, "handover", "stopping", function(lease)
        return hand_over(ctx, pair, lease, progress)
    end)
end

return M
