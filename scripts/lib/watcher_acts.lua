--- What the watcher does when the state machine says so: one function per kind of action.
---
--- Each runs in a task of its own and ends in one event, whatever happens in it; so the state
--- machine always learns that a key is free again, and when to try once more.
local arming = require("lib.arming")
local cluster = require("lib.cluster")
local condition = require("lib.condition")
local confirm = require("lib.confirm")
local fdw = require("lib.fdw")
local handover_resume = require("lib.handover_resume")
local history = require("lib.history")
local hosts_record = require("lib.hosts_record")
local instance = require("lib.instance")
local merged = require("lib.merged")
local mr = require("moonrise")

local M = {}

local ASK_MS = 3000
local DISK_MS = 10000
local HANG_MS = 500
local START_DEADLINE_MS = 60000
local ORDER_MS = { fence = 15000, mark = 15000, release = 30000, promote = 60000,
                   start = START_DEADLINE_MS + 15000 }

local function row_of(pair, dbid)
    if pair.mirror and pair.mirror.dbid == dbid then
        return pair.mirror
    end
    return pair.primary.dbid == dbid and pair.primary or nil
end

local function stale(text)
    return nil, mr.error("stale", text)
end

-- The catalog, through the session that holds the lease.
local function catalog(w)
    if not w:leads() or not w.lease.cat then
        return nil, mr.error("busy", "this watcher does not hold the lease")
    end
    return w.lease.cat
end

local function context(w)
    local cat, err = catalog(w)
    if not cat then
        return nil, err
    end
    return { env = w.env, agents = w.ctx.agents, settings = w.settings, policies = w.ctx.policies,
        cat = cat }
end

-- After a transition: what the catalog says now is known before anything follows from it.
local function look_again(w)
    local snapshot = w.lease:read()
    if snapshot then
        w:apply(snapshot)
    end
    return snapshot
end

local kinds = {}

-- What a mirror that serves said that it has; before its host's word, so no primary has less.
local function received(inst)
    local seen = inst and inst.evidence == "ok" and inst.seen or {}
    return seen.in_recovery and math.max(seen.lsn or 0, seen.replay_lsn or 0) or nil
end

function kinds.ask(w, pair, action)
    local begun = mr.clock()
    local row, known = row_of(pair, action.dbid), pair.memory.inst[action.dbid]
    local try = known and condition.silent[known.evidence] or false
    local word, err = w.ctx.agents:inspect(row, { try = try }, { timeout_ms = ASK_MS })
    -- A failover does not wait until a host that fails has read its WAL. One whose primary was not
    -- probed yet is no failover.
    local primary = pair.memory.inst[pair.primary.dbid]
    local fails = primary and primary.evidence and primary.evidence ~= "ok"
    if word and row.role == "m" and not fails then
        history.compare(w.ctx.agents, word, pair.primary,
            { timeout_ms = ASK_MS, lsn = received(pair.memory.inst[row.dbid]) })
    end
    return { kind = "word", dbid = action.dbid, word = word,
             error = not word and tostring(err) or nil, begun = begun }
end

function kinds.disk(w, pair, action)
    local answer, err = w.ctx.agents:disk(row_of(pair, action.dbid), { timeout_ms = DISK_MS })
    -- Busy: the last one still hangs.
    local hangs = err and (err.code == "timeout" or err.code == "busy")
    if hangs then
        answer = { writable = false,
            disk_error = ("a block is not written within %d s"):format(DISK_MS / 1000) }
    end
    return { kind = "disk", dbid = action.dbid, writable = answer and answer.writable,
             disk_error = answer and answer.disk_error }
end

-- Each transition is told by which epoch of the pair it was decided: what somebody has changed
-- since is not changed once more by what was true before.
local records = {}

function records.promote(ctx, pair, action)
    action.decision.reason = action.reason
    return ctx.cat:call("promote", nil, pair.content, action.dbid, action.decision,
        action.accept_loss, action.seen)
end

function records.mirror_down(ctx, pair, action)
    return hosts_record.mirror_down(ctx, pair, ctx.out, action.decision)
end

function records.mirror_up(ctx, pair, action)
    return ctx.cat:call("mirror_up", nil, pair.content, action.reason, action.seen)
end

function records.out_of_sync(ctx, pair)
    return hosts_record.out_of_sync(ctx, pair, ctx.out)
end

function records.promoted(ctx, pair, action)
    if not action.timeline or not action.switch_lsn then
        return true
    end
    return ctx.cat:call("promoted", nil, pair.content, action.epoch, action.timeline,
        action.switch_lsn)
end

local function wall(at)
    return at and math.floor(mr.wall() - (mr.clock() - at))
end

-- The story of a failover with the times of its parts, so that `history` can tell it.
local function tell_failover(w, pair, action)
    local story = action.story or {}
    local data = { epoch = action.epoch, timeline = action.timeline,
        switch_lsn = action.switch_lsn }
    for _, part in ipairs({ "seen", "fenced", "decided", "recorded", "promoted" }) do
        data[part] = wall(story[part])
    end
    local took = story.seen and story.promoted and math.floor(story.promoted - story.seen)
    w.journal:add("failover", { content = pair.content, dbid = action.dbid, data = data,
        text = took and ("dbid %d is the primary, %d ms after the old one was seen lost")
            :format(action.dbid, took) or ("dbid %d is the primary"):format(action.dbid) })
end

function kinds.record(w, pair, action)
    local ctx, err = context(w)
    local value
    if ctx then
        ctx.out = w.hosts:out(pair, action)
        value, err = records[action.fn](ctx, pair, action)
    end
    if value and action.fn == "promoted" then
        tell_failover(w, pair, action)
    end
    if ctx then
        look_again(w)
    end
    return value, err
end

-- An epoch of our own, and the certainty that the pair is still as it was when the order was
-- thought of: whoever wants to change it from now on needs a newer one.
local function reserved(w, pair, action)
    local primary, mode = pair.primary.dbid, pair.primary.mode
    local status = pair.mirror and pair.mirror.status
    local epoch, err = w.lease.cat:call("epoch_reserve", nil, pair.content,
        ("%s dbid %d: %s"):format(action.op, action.dbid, action.reason or ""))
    if not epoch then
        return nil, err
    elseif not look_again(w) then
        return nil, mr.error("connect", "the catalog was lost")
    elseif pair.primary.dbid ~= primary or pair.primary.mode ~= mode
        or (pair.mirror and pair.mirror.status) ~= status or pair.pair.epoch ~= epoch then
        return stale("the pair has changed")
    elseif action.op == "fence" and action.key == "primary" and pair.pause then
        -- It is ended for a promotion only, and that one would be refused.
        return stale("failover has been paused here")
    end
    return epoch
end

local function order_args(pair, action, epoch)
    local args = { epoch = epoch, sysid = action.sysid }
    if action.op == "start" then
        args.listen = instance.listen(row_of(pair, action.dbid))
        args.wait_ms = START_DEADLINE_MS
    elseif action.op == "mark" then
        args.reason = action.reason or "replaced"
    elseif action.op == "promote" then
        args.flush_lsn = mr.lsn_text(math.max(action.flush_lsn or 0, action.promised_lsn))
        args.slot = pair.mirror and instance.slot_name(pair.mirror) or nil
    end
    return args
end

function kinds.order(w, pair, action)
    local cat, err = catalog(w)
    local row = row_of(pair, action.dbid)
    if not cat or not row then
        return nil, err or mr.error("stale", "the instance has left the pair")
    end
    if action.op == "promote" then
        -- A watcher that repeats a promotion has not seen all that the one that decided it saw.
        local promised
        promised, err = handover_resume.promise(cat, pair.content)
        if not promised then
            return nil, err
        end
        action.promised_lsn = promised.lsn
    end
    local epoch = action.epoch
    if action.reserve then
        epoch, err = reserved(w, pair, action)
        if not epoch then
            return nil, err
        end
        action.decided_epoch = epoch
    elseif (action.op == "promote" and pair.pair.role_epoch or pair.pair.epoch) ~= epoch then
        return stale("the pair has changed")
    end
    return w.ctx.agents:order(row, action.op, order_args(pair, action, epoch),
        { timeout_ms = ORDER_MS[action.op] })
end

function kinds.arm(w, pair)
    local ctx, err = context(w)
    local ok
    if ctx then
        ok, err = arming.arm(ctx,
            { content = pair.content, primary = pair.primary, mirror = pair.mirror }, nil)
        look_again(w)
    end
    return ok, err
end

-- Why not is told once, by what the hosts say.
function kinds.confirm(w, pair)
    local ctx, err = context(w)
    local epoch
    if ctx then
        epoch, err = confirm.pair(ctx, pair)
        look_again(w)
    end
    local text = err and tostring(err)
    if ctx and text and text ~= pair.told_unconfirmed then
        w.journal:add("alert", { content = pair.content, dbid = pair.primary.dbid, text = text })
    end
    pair.told_unconfirmed = text
    return epoch, err
end

-- What the hosts have on record is of an epoch that nobody goes on with.
function kinds.tell_hosts(w, pair, action)
    local cat, err = catalog(w)
    local epoch
    if cat then
        epoch, err = cat:call("epoch_reserve", nil, pair.content, "the hosts are told", action.seen)
        look_again(w)
    end
    return epoch, err
end

function kinds.fdw(w, pair, action)
    local ctx, err = context(w)
    if not ctx then
        return nil, err
    end
    local changed
    changed, err = fdw.point(ctx, { primary = pair.primary, mirror = pair.mirror })
    if not changed then
        return nil, err
    elseif changed > 0 then
        w.journal:add("fdw", { content = pair.content, dbid = action.dbid,
            text = ("%d foreign server(s) name dbid %d first"):format(changed, action.dbid) })
    end
    if action.failover then
        local cancelled = fdw.cancel_hanging(ctx, HANG_MS)
        if cancelled and cancelled > 0 then
            w.journal:add("fdw", { content = pair.content,
                text = ("%d statement(s) that hung on the old primary were cancelled")
                    :format(cancelled) })
        end
    end
    return true
end

function kinds.take_over(w, pair, action)
    local ctx, err = context(w)
    if not ctx then
        return nil, err
    end
    local left = action.lease
    w.journal:add("lease", { content = pair.content,
        text = ("%s left %s at step %s: it is %s"):format(left.holder, left.intent, left.step,
            handover_resume.completes(left.intent) and "finished or undone" or "over") })
    local ok
    ok, err = handover_resume.take_over(ctx, left)
    look_again(w)
    return ok, err
end

-- What is done in the catalog fails with its session, and the loss of that is told by itself.
local function in_reach(w, action)
    return action.kind == "order" or w:leads() and w.lease.cat and w.lease.cat:is_open()
end

-- Whether somebody else was quicker: the epochs or the catalog refused it, and the newest rows say
-- that the pair is not any more what the action was decided for.
local function overtaken(w, pair, err, epoch)
    local code = type(err) == "table" and err.code
    if code ~= "stale" and code ~= "busy" then
        return false
    elseif w:leads() then
        look_again(w)
    end
    return pair.lease ~= nil or pair.pair.epoch ~= epoch
end

-- How each result is told; what says nothing here is told by the catalog's own row.
local function tell(w, pair, action, ok, err)
    local what = action.fn or action.op or action.kind
    local row = row_of(pair, action.dbid)
    local name = row and cluster.name(row) or ("dbid %s"):format(tostring(action.dbid))
    if not ok and (not in_reach(w, action) or action.kind == "confirm") then
        return
    elseif not ok then
        w.journal:add(overtaken(w, pair, err, action.decided_epoch) and "overtaken" or "failed",
            { content = pair.content, dbid = action.dbid, text = ("%s %s: %s"):format(
            what, name, tostring(err)),
                data = { code = type(err) == "table" and err.code or nil } })
    elseif action.kind == "order" then
        w.journal:add(action.op, { content = pair.content, dbid = action.dbid,
            text = ("%s %s: done in %d ms"):format(action.op, name, mr.clock() - action.began),
            data = { epoch = action.epoch } })
    end
end

local function perform(w, pair, action)
    action.began = mr.clock()
    local ran, value, err = pcall(kinds[action.kind], w, pair, action)
    if not ran then
        value, err = nil, value
    end
    if action.kind == "ask" or action.kind == "disk" then
        local event = ran and value or { kind = action.kind == "ask" and "word" or "disk",
            dbid = action.dbid, begun = action.began, error = tostring(err) }
        event.content = pair.content
        w.events:push(event)
        return
    end
    w.events:push({
        kind = "result", content = pair.content, key = action.key,
        name = action.name or action.kind,
        fn = action.fn, dbid = action.dbid, role_epoch = action.role_epoch,
        ok = value and true or false,
        value = type(value) == "table" and value or nil,
    })
    tell(w, pair, action, value, err)
end

-- Asking the policy takes no time worth a task, and its answer is wanted now.
local function decide(w, pair, action)
    local answer, meta = w.ctx.policies:ask("failover", action.facts)
    answer.policy = meta.file
    local told = ("%s %s %s"):format(answer.action, answer.reason, tostring(action.since))
    if told ~= pair.told then
        pair.told = told
        w.journal:add("decision", { content = pair.content, dbid = pair.primary.dbid,
            text = ("%s: %s"):format(answer.action, answer.reason),
            data = { policy = meta.file, facts = action.facts, action = answer.action,
                     reason = answer.reason, until_ms = answer.until_ms,
                     accept_loss = answer.accept_loss } })
    end
    w:step(pair, { kind = "answer", answer = answer })
end

local function note(w, pair, action)
    w.journal:add(action.what, {
        content = pair.content, dbid = action.dbid, text = action.text,
        data = merged({ facts = action.facts, from = action.from, to = action.to }, action.left),
    })
end

--- Has an action done.
---@param w Watcher
---@param pair table
---@param action table fts.step's
function M.run(w, pair, action)
    if action.kind == "journal" then
        note(w, pair, action)
    elseif action.kind == "probe" then
        if action.dbid then
            w.prober:now(action.dbid)
        end
    elseif action.kind == "decide" then
        decide(w, pair, action)
    else
        action.decided_epoch = pair.pair.epoch
        mr.spawn(perform, w, pair, action)
    end
end

return M
