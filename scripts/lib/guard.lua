--- The guards: may this pair's mirror be promoted, its primary be released, its mirror be armed?
---
--- Pure, and the same for the watcher and the simulator. A guard is asked after the policy,
--- whatever the policy said, and immediately before the catalog is; it knows nothing but the facts
--- it is given. A fact that is missing is a fact that does not hold. Each check names the rule of
--- the safety core it keeps.
local M = {}

---@class Refusal
---@field rule integer number of the safety rule
---@field reason string one line

---@class GuardFacts
---@field leader boolean this process holds the watcher's lease (or the content's, for a runbook)
---@field lease? string another holder's unexpired lease on this content
---@field content integer
---@field mode "s"|"n" of the pair in the catalog
---@field mirror_status "u"|"d" in the catalog
---@field accept_loss? string an operator's, or a policy's, written acceptance of loss
---@field paused? string until when, by whom and why nothing may be promoted or released here
---@field unconfirmed? boolean the pair has not confirmed its epochs since an activation
---@field majority? boolean a majority of all hosts answers to record it (content -1 only)
---@field primary table {stopped, host_answers, heard, disarmed, said_gone, server_version,
---  sync_commit, older_copy}; said_gone: a person has seen that it is gone; older_copy: why it is
---  an older copy of itself
---@field mirror table {answered, in_recovery, sysid, timeline, lsn, replay_lsn, replay_paused,
---  marked, epoch_valid, streaming, sync_names, behind_promotion, astray}
---@field expected table {sysid, timeline, flush_lsn, primary_lsn}
---@field bounds table {replay_lag_bytes, arm_lag_bytes}

local function check(rule, holds, reason)
    return { rule = rule, holds = holds, reason = reason }
end

--- Minors that let commits through before the checkpointer has read its settings: `s` is lost
--- there.
---@param version integer as PostgreSQL's server_version_num
---@return boolean
function M.server_waits(version)
    local first = { [13] = 21, [14] = 18, [15] = 13, [16] = 9, [17] = 5 }
    local major, minor = math.floor(version / 10000), version % 10000
    return major > 17 or (first[major] ~= nil and minor >= first[major])
end

--- One acts, and only where nobody else works.
local one_acts = {
    check(6, function(f)
        return f.leader == true
    end, "this process does not hold the lease"),
    check(6, function(f)
        return f.lease == nil
    end, "somebody else holds this content's lease"),
    check(8, function(f)
        return not f.unconfirmed
    end, "the pair has not confirmed its epochs since the coordinator was activated"),
    check(8, function(f)
        return f.content >= 0 or f.majority == true
    end, "no majority of the hosts answers to record it for the coordinator's pair"),
}

-- Nothing is fenced, promoted or recorded as lost. A pair is armed all the same: commits that are
-- acknowledged during a pause are then safe on the mirror, as in any other hour. And what is
-- recorded is carried out: a change of roles, without which the pair has no primary at all, and the
-- release of a primary whose mirror is recorded as lost, which would hang for nobody.
local not_paused = {
    check(6, function(f)
        return f.paused == nil
    end, function(f)
        return "failover is paused here " .. f.paused
    end),
}

-- A primary that was put back from an older copy takes nothing from its mirror, which has every
-- acknowledged commit: neither the promise nor the place. That mirror may be promoted as any other.
local is_itself = {
    check(9, function(f)
        return f.primary.older_copy == nil
    end, function(f)
        return "the primary is an older copy of itself: " .. f.primary.older_copy
    end),
}

local function known(value)
    return type(value) == "number"
end

--- The mirror answers for itself, now.
local mirror_answers = {
    check(1, function(f)
        return f.mirror.answered == true
    end, "the mirror has not answered since the primary was lost"),
    check(1, function(f)
        return f.mirror.in_recovery == true
    end, "the mirror is not in recovery"),
    check(1, function(f)
        return f.expected.sysid ~= nil and f.mirror.sysid == f.expected.sysid
    end, "the mirror has another system identifier"),
    check(1, function(f)
        return known(f.expected.timeline) and known(f.mirror.timeline)
    end, "it is not known whether the mirror follows its primary's history"),
    check(1, function(f)
        return f.mirror.timeline == f.expected.timeline
    end, "the mirror follows another history"),
    check(1, function(f)
        return known(f.mirror.lsn) and f.mirror.lsn >= (f.expected.flush_lsn or 0)
    end, "the mirror has received less than it had reported"),
    check(1, function(f)
        return f.mirror.replay_paused ~= true
    end, "replay is paused on the mirror"),
    check(9, function(f)
        return f.mirror.astray == nil
    end, "the mirror's history is not its primary's"),
}

local may_be_promoted = {
    check(1, function(f)
        return f.mode == "s" or (f.accept_loss or "") ~= ""
    end, "the pair is not in sync"),
    check(1, function(f)
        return f.mirror_status == "u" or (f.accept_loss or "") ~= ""
    end, "the mirror is recorded as down"),
    -- It may have died before that could be recorded.
    check(1, function(f)
        return f.primary.disarmed ~= true or (f.accept_loss or "") ~= ""
    end, "the primary, when it was last asked, did not wait for this mirror"),
    check(3, function(f)
        return f.mirror.marked ~= true
    end, "the mirror is marked: it must be recovered first"),
}

-- Whether the primary's commits wait for this mirror, wherever that primary may still be.
local function is_waited_for(f)
    return f.mode == "s" and f.mirror_status == "u" and f.primary.disarmed ~= true
end

--- What is only known to be true once the old server has been fenced.
local fenced = {
    check(3, function(f)
        return f.primary.stopped == true or not f.primary.host_answers
    end, "the primary's host answers and its server is not stopped"),
    check(3, function(f)
        return f.primary.stopped == true or f.primary.heard ~= true
    end, "the mirror still hears its primary"),
    -- Out of reach is not gone. A primary that waits for its mirror acknowledges nothing without
    -- it; any other one would go on beside its successor.
    check(3, function(f)
        return f.primary.stopped == true or f.primary.said_gone == true or is_waited_for(f)
    end, "nobody says that its primary is stopped, and that one does not wait for this mirror"),
}

local may_be_released = {
    check(2, function(f)
        return f.mode == "n"
    end, "the mirror has not been recorded as out of sync"),
}

local may_be_armed = {
    check(2, function(f)
        return f.mirror_status == "u"
    end, "the mirror is recorded as down"),
    check(1, function(f)
        return f.mirror.streaming == true
    end, "the mirror does not stream"),
    check(1, function(f)
        return (f.mirror.sync_names or "") == ""
    end, "the mirror has its own synchronous_standby_names"),
    check(1, function(f)
        local lag = known(f.mirror.replay_lsn) and known(f.expected.primary_lsn)
            and f.expected.primary_lsn - f.mirror.replay_lsn
        return lag and lag <= f.bounds.replay_lag_bytes
    end, "the mirror has too much left to replay"),
    check(1, function(f)
        local lag = known(f.mirror.lsn) and known(f.expected.primary_lsn)
            and f.expected.primary_lsn - f.mirror.lsn
        return lag and lag <= f.bounds.arm_lag_bytes
    end, "the mirror is too far behind to be waited for"),
    check(1, function(f)
        local level = f.primary.sync_commit
        return level == "on" or level == "remote_apply"
    end, "synchronous_commit is below on, server-wide"),
    check(1, function(f)
        return known(f.primary.server_version) and M.server_waits(f.primary.server_version)
    end, "this minor release lets commits through at its start"),
    check(3, function(f)
        return f.mirror.marked == false and f.mirror.epoch_valid == true
    end, "the mirror is marked, or has no valid epoch"),
    check(9, function(f)
        return f.mirror.behind_promotion ~= true
    end, "the mirror has not been recovered since the pair's last promotion"),
}

local function all(facts, ...)
    for _, list in ipairs({ ... }) do
        for _, item in ipairs(list) do
            if not item.holds(facts) then
                local reason = item.reason
                return nil, { rule = item.rule,
                    reason = type(reason) == "function" and reason(facts) or reason }
            end
        end
    end
    return true
end

--- May the mirror be promoted now?
---@param facts GuardFacts
---@return boolean? ok
---@return Refusal? refusal
function M.promote(facts)
    return all(facts, one_acts, not_paused, may_be_promoted, mirror_answers, fenced)
end

--- Would the mirror be promoted once its old primary is fenced? Asked before a server that may
--- still be of use is ended.
---@param facts GuardFacts
---@return boolean? ok
---@return Refusal? refusal
function M.fence(facts)
    return all(facts, one_acts, not_paused, may_be_promoted, mirror_answers)
end

--- May the pair be recorded as out of sync (the mirror down or not), so that its primary can be
--- released?
---@param facts GuardFacts
---@return boolean? ok
---@return Refusal? refusal
function M.record_out(facts)
    return all(facts, one_acts, not_paused, is_itself)
end

--- May the pair be recorded as out of sync because commits were seen not to wait for the mirror?
--- That is no decision but what is so: it holds back a promotion, also one after a pause.
---@param facts GuardFacts
---@return boolean? ok
---@return Refusal? refusal
function M.record_disarmed(facts)
    return all(facts, one_acts, is_itself)
end

--- May the primary be released from waiting for its mirror now?
---@param facts GuardFacts
---@return boolean? ok
---@return Refusal? refusal
function M.release(facts)
    return all(facts, one_acts, may_be_released)
end

--- May the primary be made to wait for its mirror, so that the pair can be recorded as in sync?
---@param facts GuardFacts
---@return boolean? ok
---@return Refusal? refusal
function M.arm(facts)
    return all(facts, one_acts, may_be_armed, mirror_answers)
end

return M
