--- Finishing or undoing what a killed runbook left of a handover or a restart; the watcher does it,
--- and so do `start`, `recoverseg` and their like, where there may be no watcher.
---
--- What tells where it was is the catalog: the step of the lease that was left, and, where even the
--- lease is gone, a change of roles of which no promotion is recorded.
local mr = require("moonrise")
local cluster = require("lib.cluster")
local handover = require("lib.handover")
local hold = require("lib.hold")
local restart = require("lib.restart")
local term = require("lib.term")
local wait = require("lib.wait")

local M = {}

-- Somebody else brings it to its end: how long that may take, and how often one looks.
local OTHERS_MS, LOOK_MS = 60000, 100

-- What the record of the last change of roles promised that the new primary has.
local PROMISED_SQL = [[
select j.kind, j.data->>'shutdown_end' as shutdown_end,
       (j.data->'decision'->>'flush_lsn')::float8 as flush_lsn
from moonrise.pair_state p
join moonrise.journal j on j.content = p.content and j.kind in ('promote', 'hand_over')
    and (j.data->>'epoch')::bigint = p.role_epoch
where p.content = $1
order by j.id desc limit 1]]

-- Contents whose roles were changed and whose promotion nobody has seen through.
local PENDING_SQL = [[
select p.content from moonrise.pair_state p
where p.role_epoch > 0 and p.content >= 0
    and not exists (select from moonrise.promotion m
        where m.content = p.content and m.epoch >= p.role_epoch)
    and not exists (select from moonrise.content_lease l where l.content = p.content
        and l.expires > clock_timestamp())
order by p.content]]

--- What the last change of a content's roles promised that the new primary has.
---@param cat table
---@param content integer
---@return {lsn: number, handed: boolean}? promise handed: the old primary was shut down for it
---@return Error? err
function M.promise(cat, content)
    local rows, err = cat:query(PROMISED_SQL, { content })
    if not rows then
        return nil, err
    elseif not rows[1] then
        return nil, mr.error("refused", "the catalog has no record of this change of roles")
    elseif rows[1].shutdown_end then
        return { lsn = mr.lsn(rows[1].shutdown_end), handed = true }
    end
    return { lsn = rows[1].flush_lsn or 0, handed = false }
end

-- Nobody has had the old primary since it was shut down for the handover: it ends where the new one
-- goes on, or it is its mirror by its files already. Anything else wants a recovery.
local function may_turn(ctx, pair, token, promised)
    local word, err = ctx.agents:inspect(pair.mirror)
    if not word then
        return nil, err
    elseif word.standby_signal then
        return true
    end
    local epoch
    epoch, err = ctx.cat:call("epoch_reserve", token, pair.content, "handover: its end is asked")
    local ended
    if epoch then
        ended, err = ctx.agents:order(pair.mirror, "stop", { epoch = epoch, mode = "fast" },
            { timeout_ms = 60000 })
    end
    if not ended then
        return nil, err
    elseif not ended.shutdown_end or mr.lsn(ended.shutdown_end) ~= promised.lsn then
        return nil, mr.error("refused", "it does not end where it was shut down for the handover",
            { instance = cluster.name(pair.mirror), hint = "moonrise recoverseg recovers it" })
    end
    return true
end

-- The catalog's primary is made one. Its server may have gone down meanwhile like everything else.
local function forwards(ctx, pair, token)
    -- A change of roles ends the pair's being in sync: all was done but to give the lease back.
    if pair.primary.mode == "s" then
        return true
    end
    local promised, err = M.promise(ctx.cat, pair.content)
    local ok
    if promised then
        ok, err = ctx.agents:inspect(pair.primary)
    end
    if ok and ok.stopped then
        ok, err = handover.start(ctx, pair.primary, token, "handover: it is to be promoted")
    end
    if ok then
        ok, err = handover.promote(ctx, pair, token, mr.lsn_text(promised.lsn))
    end
    if not ok or not promised.handed then
        return ok, err
    end
    ok, err = may_turn(ctx, pair, token, promised)
    if ok then
        ok, err = handover.turn_old(ctx, pair, token)
    end
    return ok ~= nil or nil, err
end

-- The catalog was never changed.
local function backwards(ctx, pair, token)
    return handover.start(ctx, pair.primary, token, "handover undone")
end

local function complete(ctx, pair, token, left)
    if left.intent == "restart" then
        return restart.finish(ctx, pair, token, left.step)
    end
    return (left.step == "handed" and forwards or backwards)(ctx, pair, token)
end

--- Whether what was left under a lease of this intent is to be finished or undone; of any other
--- nothing is left to do.
---@param intent string
---@return boolean
function M.completes(intent)
    return intent == "handover" or intent == "restart"
end

--- Takes over a lease that was left. A handover or a restart is finished or undone. Of several that
--- try it at once one does it.
---@param ctx table {env, cat, agents}
---@param left {content: integer, token: integer, holder: string, intent: string, step: string}
---@return boolean? ok
---@return Error? err code "busy" when somebody else was first, or the lease has been renewed
function M.take_over(ctx, left)
    local gone = hold.is_gone(left.holder)
    if not M.completes(left.intent) then
        return ctx.cat:end_lease(left.token, hold.holder(), hold.TTL, gone)
    end
    local token, err = ctx.cat:call("lease_inherit", left.token, hold.holder(), hold.TTL, gone)
    if not token then
        return nil, err
    end
    -- What cannot be finished so is a fault of the pair like any other: left under a lease it would
    -- have nobody to fail it over.
    return hold.keeping(ctx.cat, token, left.step, function()
        local pair, why = ctx.cat:pair(left.content)
        if not pair then
            return nil, why
        end
        local ok
        ok, why = complete(ctx, pair, token, left)
        return ok and true or nil, why
    end)
end

-- Whoever was first brings it to its end; before that there is no plan for the pair.
local function wait_for(cat, content)
    wait.eventually(OTHERS_MS, LOOK_MS, function()
        local leases, err = cat:leases()
        for _, lease in ipairs(leases or {}) do
            if lease.content == content and not hold.is_over(lease) then
                return nil
            end
        end
        return leases ~= nil, err
    end)
end

local function told(content, ok, err, what)
    if ok then
        term.info("content %d: %s", content, what)
        return 0
    elseif err.sqlstate == "MR003" then -- somebody else was first
        return 0
    end
    term.error(err)
    term.warn("content %d: what was left there is still unfinished; run it again", content)
    return 1
end

local function done_of(left)
    local finished = left.intent == "restart" or left.step == "handed"
    return ("the %s is %s"):format(left.intent, finished and "finished" or "undone")
end

local function take_over_or_wait(ctx, left)
    term.info("content %d: %s left a %s (%s)", left.content, left.holder, left.intent, left.step)
    local ok, err = M.take_over(ctx, left)
    if not ok and err.sqlstate == "MR003" then
        wait_for(ctx.cat, left.content)
    end
    return told(left.content, ok, err, done_of(left))
end

local function leases_left(ctx)
    local failures = 0
    local state = ctx.cat:state()
    for _, left in ipairs(ctx.cat:leases() or {}) do
        local is_over = hold.is_over(left)
        if is_over and M.completes(left.intent) then
            failures = failures + take_over_or_wait(ctx, left)
        elseif is_over and left.intent == "promote" then
            -- What it had recorded is a promotion that is left, like any other.
            M.take_over(ctx, left)
        elseif M.completes(left.intent) and state and left.holder == state.watcher then
            term.info("content %d: the watcher is at what is left of a %s (%s)", left.content,
                left.intent, left.step)
            wait_for(ctx.cat, left.content)
        end
    end
    return failures
end

local function promotions_left(ctx, intent)
    local failures = 0
    local watcher, err = ctx.cat:call("watcher_pid")
    -- A watcher finishes such a promotion itself, and within a failover it is about to.
    if watcher or err then
        return failures
    end
    for _, row in ipairs(ctx.cat:query(PENDING_SQL) or {}) do
        local ok, why = hold.content(ctx, row.content, intent, "handed", function(lease)
            local pair, problem = ctx.cat:pair(row.content)
            if not pair then
                return nil, problem
            end
            return forwards(ctx, pair, lease.token)
        end)
        failures = failures + told(row.content, ok, why, "the change of roles is finished")
    end
    return failures
end

--- Finishes or undoes every handover and restart whose holder is gone, and tells of each; without a
--- watcher also finishes changes of roles that are recorded and were never carried out.
---@param ctx table {env, cat, agents}
---@param intent? string of the leases that are taken; default "handover", which a stopped cluster
--- refuses
---@return integer failures how many are still unfinished
function M.all(ctx, intent)
    return leases_left(ctx) + promotions_left(ctx, intent or "handover")
end

return M
