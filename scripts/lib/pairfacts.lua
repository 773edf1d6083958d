--- What the failover policy and the guards are told of a pair, taken from a look at it
--- (lib/pairview.lua). Pure.
local conditions = require("lib.condition")
local sight = require("lib.sight")

local M = {}

local function instance_facts(view, inst, row, condition)
    if not inst then
        return nil
    end
    local progress = inst.progress_at and view.now - inst.progress_at
    return {
        dbid = row.dbid, host = row.hostname, status = row.status, condition = condition,
        evidence = inst.evidence or "none", tries = inst.tries,
        bad_ms = inst.since and view.now - inst.since or 0,
        still_ms = progress or (inst.since and view.now - inst.since) or 0,
        disk_error = inst.disk_error, refusal = inst.refusal,
    }
end

--- The facts that the failover policy is given (policies/README.md).
---@param view table
---@return table
function M.policy(view)
    local s, seen = view.settings, view.p.seen or {}
    local flushed = seen.peer and seen.peer.flush_lsn
    return {
        content = view.primary.content, coordinator = view.primary.content < 0,
        mode = view.mode, state = view.state,
        primary = instance_facts(view, view.p, view.primary, view.pc),
        mirror = instance_facts(view, view.m, view.mirror, view.mc),
        replication = {
            streaming = view.streaming, unstreamed_ms = view:unstreamed_ms(),
            stalled_ms = view:stalled_ms(), waiting = seen.waiting or 0, flapping = view:flapping(),
            lag_bytes = flushed and seen.lsn and math.max(0, seen.lsn - flushed) or nil,
            heard = view:heard(),
        },
        settings = {
            patience_tries = s.patience_tries, patience_ms = s.patience_ms, grace_ms = s.grace_ms,
            recovery_stall_ms = s.recovery_stall_ms, shutdown_ms = s.shutdown_ms,
        },
    }
end

local function position(seen)
    return math.max(seen.lsn or 0, seen.replay_lsn or 0)
end

local function mirror_facts(view)
    local m = view.m
    if not m or not m.seen then
        return {}
    end
    local word = m.word or {}
    local epoch = word.epoch or {}
    return {
        answered = m.evidence == "ok" and view.now - m.ok_at <= view.settings.fresh_ms
            and m.ok_begun >= (view.p.since or 0),
        in_recovery = m.seen.in_recovery, sysid = m.sysid,
        timeline = sight.timeline(m, "m"),
        lsn = position(m.seen), replay_lsn = m.seen.replay_lsn,
        replay_paused = m.seen.replay_paused,
        sync_names = m.seen.sync_names, streaming = view.streaming, marked = epoch.marked or false,
        epoch_valid = epoch.valid, behind_promotion = view:behind_promotion(),
        astray = view:astray(),
    }
end

--- The facts that the guards are given (lib/guard.lua).
---@param view table
---@return GuardFacts
function M.guard(view)
    local s, seen, input = view.settings, view.p.seen or {}, view.input
    return {
        leader = input.leader, lease = view.state == "leased"
            and (input.lease and input.lease.holder or "stop") or nil,
        content = view.primary.content, mode = view.mode,
        mirror_status = view.mirror and view.mirror.status or "d",
        accept_loss = view:accepted_loss(),
        paused = input.paused, unconfirmed = input.unconfirmed, majority = input.majority,
        primary = {
            stopped = view.pc == "stopped", host_answers = conditions.reachable(view.p),
            heard = view:heard(),
            disarmed = view:disarmed(), older_copy = view:older_copy(),
            server_version = input.server_version, sync_commit = seen.sync_commit,
        },
        mirror = mirror_facts(view),
        expected = {
            sysid = view:expected_sysid(),
            -- One that was lost before it was seen: the timeline on which the pair was armed.
            timeline = sight.timeline(view.p, "p") or view.pair.armed_timeline,
            flush_lsn = view.m and view.m.highest, primary_lsn = seen.lsn,
        },
        bounds = { replay_lag_bytes = s.replay_lag_bytes, arm_lag_bytes = s.arm_lag_bytes },
    }
end

return M
