--- A person's promotion of what a double fault has left.
---
--- Everything under the content's lease and by orders of the hosts' agents. Up to the record in the
--- catalog nothing has changed but that the mirror may run; from the record on whoever comes next
--- completes it: this command run again, or the watcher, to whom it is a promotion like any other.
local cluster = require("lib.cluster")
local double_fault = require("lib.double_fault")
local guard = require("lib.guard")
local handover = require("lib.handover")
local history = require("lib.history")
local hold = require("lib.hold")
local instance = require("lib.instance")
local mr = require("moonrise")
local survivors = require("lib.survivors")
local term = require("lib.term")
local wait = require("lib.wait")

local M = {}

local ORDER_MS = 15000
local REPLAY_MS, REPLAY_PAUSE_MS, QUIET_MS = 120000, 100, 1000
-- A mirror asks a primary that is silent for a sign of life within this (lib/settings.lua).
local HEARD_MS = 10000

---@class Choice
---@field dbid integer
---@field accept_loss? string
---@field primary_is_gone? boolean a person has seen that the old primary is gone

local function refuse(inst, message, hint)
    return nil, mr.error("refused", message, { instance = cluster.name(inst), hint = hint })
end

local function pair_of(ctx, dbid)
    local instances, err = ctx.cat:instances()
    if not instances then
        return nil, err
    end
    local inst = cluster.find(instances, dbid)
    if not inst then
        return nil, mr.error("usage", ("--promote %d: the catalog knows no such dbid"):format(dbid))
    elseif inst.content < 0 then
        return refuse(inst, "a coordinator is not promoted like a segment",
            "its standby is activated: moonrise activatestandby")
    end
    return cluster.pair(instances, inst.content)
end

-- It may be so by an earlier run of this command.
local function already(inst, seen)
    if seen.sql and not seen.sql.in_recovery then
        return { serves = true }
    end
    return refuse(inst, "it is the primary already", seen.sql
        and "the watcher promotes it, or recoverseg where there is none"
        or "moonrise start starts it")
end

-- What can be said before anything is done.
local function check_choice(fault, choice)
    local pair, primary = fault.pair, fault.known[fault.pair.primary.dbid]
    local chosen = fault.survivors[2]
    if chosen.unreadable then
        return refuse(pair.mirror, "its directory cannot be read: " .. chosen.unreadable,
            "mend that, or have its primary started: moonrise start")
    elseif chosen.refusal then
        return refuse(pair.mirror, "it cannot be promoted: " .. chosen.refusal,
            "what its primary has is all there is: moonrise start starts that one")
    elseif survivors.loses(chosen) and not choice.accept_loss then
        return refuse(pair.mirror, "promoting it loses " .. survivors.loss(chosen),
            "who accepts that says so, and why: --accept-loss TEXT")
    elseif survivors.loses(chosen) and not primary.word and not choice.primary_is_gone then
        return refuse(pair.primary, "its host does not say that it is stopped, and it may go on "
            .. "acknowledging commits", "see that the host is off, then say so: --primary-is-gone")
    end
    return fault
end

--- Looks at the pair of a mirror that a person wants to be promoted; nothing is changed. Of one
--- that is a primary and serves already there is nothing but `serves`.
---@param ctx table {env, cat, agents}
---@param choice Choice
---@return DoubleFault? fault
---@return Error? err why it cannot be promoted, or not without more being said; code "usage" for
--- a dbid that does not exist
function M.plan(ctx, choice)
    local pair, err = pair_of(ctx, choice.dbid)
    if not pair then
        return nil, err
    end
    local primary = double_fault.look(ctx, pair.primary)
    local looked_at = mr.clock()
    if pair.primary.dbid == choice.dbid then
        return already(pair.primary, primary)
    elseif not survivors.is_lost(primary) then
        return refuse(pair.primary, "the primary of this pair lives",
            "moonrise recoverseg brings its mirror back, recoverseg -r changes roles")
    end
    local known
    known, err = double_fault.history(ctx.cat, pair.content)
    if not known then
        return nil, err
    end
    known[pair.primary.dbid] = primary
    known[pair.mirror.dbid] = double_fault.look(ctx, pair.mirror)
    if known[pair.mirror.dbid].word then
        history.compare(ctx.agents, known[pair.mirror.dbid].word, pair.primary)
    end
    return check_choice({ content = pair.content, pair = pair, known = known,
        looked_at = looked_at, survivors = survivors.of(pair, known) }, choice)
end

local POSITION_SQL = [[
select pg_is_in_recovery() as in_recovery, pg_is_wal_replay_paused() as paused,
    greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) as lsn,
    (select extract(epoch from clock_timestamp() - last_msg_receipt_time) * 1000
        from pg_stat_wal_receiver where status = 'streaming')::float8 as received_ms]]

-- Whether the mirror got something from its primary after that one had become silent to us; nil
-- while it still may. One whose host answers is fenced, and not listened for.
local function still_hears(fault, row, asked_at)
    if fault.known[fault.pair.primary.dbid].word or not row.received_ms then
        return false
    elseif asked_at - row.received_ms > fault.looked_at then
        return true
    elseif mr.clock() - fault.looked_at > HEARD_MS then
        return false
    end
    return nil
end

-- One that has just been started replays what it has, first. It says where it is once it has been
-- still for a while.
local function settled(ctx, fault)
    local mirror, last, since = fault.pair.mirror, nil, nil
    return wait.eventually(REPLAY_MS, REPLAY_PAUSE_MS, function()
        local asked_at = mr.clock()
        local row, err = instance.ask(ctx.env, mirror, POSITION_SQL)
        if not row then
            return nil, err
        elseif row.lsn ~= last then
            last, since = row.lsn, mr.clock()
        end
        row.heard = still_hears(fault, row, asked_at)
        local quiet = row.heard ~= nil and mr.clock() - (since or 0) >= QUIET_MS
        return (quiet or row.heard) and row or nil,
            mr.error("timeout", "its replay has not come to an end",
                { instance = cluster.name(mirror),
                  hint = "its log says how far it is; run this again when it is done" })
    end)
end

-- What the guards are asked with; the lease of the content stands for the watcher's.
local function guard_facts(fault, choice, answer)
    local pair, known = fault.pair, fault.known
    local primary, mirror = known[pair.primary.dbid], known[pair.mirror.dbid]
    local control, theirs = mirror.word.control, primary.word and primary.word.control or {}
    return {
        leader = true, content = pair.content, mode = pair.primary.mode,
        mirror_status = pair.mirror.status, accept_loss = choice.accept_loss,
        primary = {
            stopped = primary.word ~= nil and primary.word.stopped,
            host_answers = primary.word ~= nil, said_gone = choice.primary_is_gone,
            heard = answer.heard,
        },
        mirror = {
            answered = true, in_recovery = answer.in_recovery, sysid = control.sysid,
            timeline = control.newest_timeline, lsn = answer.lsn, replay_paused = answer.paused,
            marked = (mirror.word.epoch or {}).marked,
            astray = instance.other_history(mirror.word, known.state),
        },
        -- It may have reported a part of a record, which it does not replay: then it takes a
        -- person who accepts that.
        expected = { sysid = theirs.sysid or (mirror.word.epoch or {}).sysid,
                     timeline = known.state.timeline,
                     flush_lsn = not choice.accept_loss and known.flush_lsn or nil },
    }
end

local function ask_guard(name, fault, facts)
    local ok, no = guard[name](facts)
    if not ok then
        return refuse(fault.pair.mirror, ("no promotion: rule %d: %s"):format(no.rule, no.reason),
            "nothing is promoted; moonrise recoverseg shows what is left of the pair")
    end
    return true
end

local function order_old(ctx, fault, lease, op, args)
    local epoch, err = ctx.cat:call("epoch_reserve", lease.token, fault.content,
        ("promotion: %s dbid %d"):format(op, fault.pair.primary.dbid))
    if not epoch then
        return nil, err
    end
    args.epoch = epoch
    return ctx.agents:order(fault.pair.primary, op, args, { timeout_ms = ORDER_MS })
end

-- Whether there is something to be ended and marked, and can be. What is only half made cannot be
-- started; what has no epoch file takes no order, and is started by none.
local function can_fence(fault)
    local word = fault.known[fault.pair.primary.dbid].word
    return word ~= nil and word.kind == "datadir" and (word.epoch or {}).valid == true
end

-- Whether the old primary is ended, by its host's word of now where that is all there is.
local function end_old(ctx, fault, lease)
    local primary = fault.pair.primary
    if can_fence(fault) then
        return order_old(ctx, fault, lease, "fence", {})
    elseif not fault.known[primary.dbid].word then
        return false
    end
    local word, err = ctx.agents:inspect(primary)
    return word and word.stopped, err
end

-- The mirror runs and answers; what is left of its primary is ended. By now its host's word is old,
-- and somebody may have started it since.
local function prepare(ctx, fault, choice, lease)
    local ok, err = handover.start(ctx, fault.pair.mirror, lease.token,
        "promotion: it is started first")
    local answer
    if ok then
        answer, err = settled(ctx, fault)
    end
    if not answer then
        return nil, err
    end
    local facts = guard_facts(fault, choice, answer)
    ok, err = ask_guard("fence", fault, facts)
    if ok then
        ok, err = end_old(ctx, fault, lease)
        facts.primary.stopped = ok and true or false
    end
    if ok ~= nil then
        ok, err = ask_guard("promote", fault, facts)
    end
    return ok and answer, err
end

local function record(ctx, fault, choice, lease, answer)
    local accepted = choice.accept_loss
    return ctx.cat:call("promote", lease.token, fault.content, choice.dbid, {
        reason = accepted and "a person accepts the loss: " .. accepted
            or "a person promotes it: it is in sync",
        action = "promote", holder = hold.holder(), flush_lsn = answer.lsn,
        survivors = fault.survivors, primary_is_gone = choice.primary_is_gone,
    }, accepted)
end

-- Its directory must not start again before it has been recovered; only the catalog's mirror is
-- marked, so the record comes before. Where its host gives no answer, the watcher sees to it as
-- soon as there is one, and no runbook starts it.
local function mark_old(ctx, fault, lease)
    if not can_fence(fault) then
        local word = fault.known[fault.pair.primary.dbid].word
        term.warn("%s: not marked; %s", cluster.name(fault.pair.primary), word
            and "it has no valid moonrise.epoch: moonrise recoverseg brings it back"
            or "the watcher marks it when its host answers")
        return true
    end
    local ok, err = order_old(ctx, fault, lease, "mark",
        { reason = "replaced by a person's choice" })
    if ok and not ok.aside then
        -- It was started once more since it was fenced.
        ok, err = order_old(ctx, fault, lease, "fence", {})
    end
    return ok, err
end

local function promote(ctx, choice, lease)
    -- What was planned with may be old by now.
    local fault, err = M.plan(ctx, choice)
    local answer
    if fault then
        answer, err = prepare(ctx, fault, choice, lease)
    end
    local recorded
    if answer then
        recorded, err = record(ctx, fault, choice, lease, answer)
    end
    if not recorded then
        return nil, err
    end
    local pair = fault.pair
    local turned = { content = pair.content, primary = pair.mirror, mirror = pair.primary }
    local ok
    ok, err = mark_old(ctx, fault, lease)
    if ok then
        ok, err = handover.promote(ctx, turned, lease.token, mr.lsn_text(answer.lsn))
    end
    if not ok then
        return nil, mr.error(err.code, "it is recorded as the primary and not promoted yet: "
            .. err.message, { cause = err, instance = cluster.name(pair.mirror),
                hint = "the watcher promotes it; without one run recoverseg again" })
    end
    return fault
end

--- Promotes the mirror that a person chose, under its content's lease. Waits.
---@param ctx table {env, cat, agents}
---@param content integer
---@param choice Choice
---@return DoubleFault? fault as it was found under the lease
---@return Error? err
function M.run(ctx, content, choice)
    return hold.content(ctx, content, "promote", "choosing", function(lease)
        return promote(ctx, choice, lease)
    end)
end

return M
