--- What the rows of lib/fts.lua can ask for. Pure, as they are: an action is a plain table that
--- says what is to be done and to whom; lib/watcher_acts.lua does it.
local condition = require("lib.condition")
local pairfacts = require("lib.pairfacts")
local mr = require("moonrise")
local survivors = require("lib.survivors")

local function decision(view)
    local answer = view.memory.answer or {}
    return { action = answer.action, reason = answer.reason, policy = answer.policy,
             accept_loss = answer.accept_loss, facts = pairfacts.policy(view),
             flush_lsn = view.m and view.m.highest }
end

-- The policy's words where it was the policy that wanted it.
local function reason(view, fallback)
    local answer = view.memory.answer
    local wanted = answer and (answer.action == "promote" or answer.action == "release")
    return wanted and answer.reason or fallback
end

local function record(fn, why)
    return function(view)
        return { kind = "record", key = "catalog", fn = fn, dbid = view.mirror.dbid,
                 seen = view.pair.epoch, reason = reason(view, why), decision = decision(view),
                 accept_loss = fn == "promote" and view:accepted_loss() or nil }
    end
end

local function order(op, key, who)
    return function(view)
        local row = view[who]
        local failed = view.memory.retry[key]
        return { kind = "order", name = op, op = op, key = key, dbid = row.dbid,
                 -- A promotion belongs to the change of roles that it carries out.
                 epoch = op == "promote" and view.pair.role_epoch or view.pair.epoch,
                 role_epoch = view.pair.role_epoch, reserve = op == "fence" or failed ~= nil,
                 reason = reason(view, view.state), sysid = view:sysid(who),
                 again = failed and failed.count,
                 flush_lsn = view.state == "promoting" and view.p.highest or nil }
    end
end

local function note(kind, text)
    return function(view)
        return { kind = "journal", what = kind, dbid = view.primary.dbid, text = text(view),
                 facts = pairfacts.policy(view) }
    end
end

local function seen_of(inst)
    local seen = inst.seen or {}
    return { word = inst.word, word_error = inst.word_error, sql = inst.evidence == "ok"
        and { lsn = math.max(seen.lsn or 0, seen.replay_lsn or 0) } or nil }
end

local function lsn_text(lsn)
    return lsn and lsn > 0 and mr.lsn_text(lsn) or nil
end

-- What is left of the pair, as data; `state` and `recoverseg` go on from the positions.
local function what_is_left(view)
    local p, m = view.p, view.m
    local known = { [p.dbid] = seen_of(p), [m.dbid] = seen_of(m),
                    primary_lsn = p.seen and p.seen.lsn, flush_lsn = m.highest }
    local pair = { content = view.primary.content, primary = view.primary, mirror = view.mirror }
    return { survivors = survivors.of(pair, known), primary_lsn = lsn_text(known.primary_lsn),
             flush_lsn = lsn_text(known.flush_lsn) }
end

local function tell_stranger(who)
    return note("alert", function(view)
        return ("dbid %d was started by somebody else and listens nowhere: its agent restarts it")
            :format(view[who].dbid)
    end)
end

-- What may ail an instance that serves: the field that says so, the one that says that it was told,
-- the one with the reason, and the words.
local DISK = { key = "disk_error", told = "disk_told", reason = "disk_error",
    begins = "dbid %d's data directory cannot be written: %s",
    ends = "dbid %d's data directory can be written again" }
local SESSIONS = { key = "refusal", told = "refusal_told", reason = "refused_with",
    begins = "dbid %d serves and lets no new session in: %s",
    ends = "dbid %d lets new sessions in again" }

-- Once when it begins and once when it ends, whatever the policy makes of it.
local function tell_ailing(what, who, ailment)
    return function(view)
        local inst = who == "primary" and view.p or view.m
        local ails = inst[ailment.key]
        inst[ailment.told] = ails
        view.memory.told_alert = ails and view.memory.told_alert or nil
        return { kind = "journal", what = what, dbid = inst.dbid, facts = pairfacts.policy(view),
                 text = (ails and ailment.begins or ailment.ends):format(inst.dbid,
                     inst[ailment.reason]) }
    end
end

--- What rows can ask for, by name: each makes one action, a plain table with `kind`, and `key` when
--- it is under way until its result comes back as an event.
return {
    ask_primary = function(view)
        return { kind = "ask", key = "ask:" .. view.primary.dbid, dbid = view.primary.dbid }
    end,
    ask_mirror = function(view)
        return { kind = "ask", key = "ask:" .. view.mirror.dbid, dbid = view.mirror.dbid }
    end,
    disk_primary = function(view)
        return { kind = "disk", key = "disk:" .. view.primary.dbid, dbid = view.primary.dbid }
    end,
    disk_mirror = function(view)
        return { kind = "disk", key = "disk:" .. view.mirror.dbid, dbid = view.mirror.dbid }
    end,
    probe_primary = function(view)
        return { kind = "probe", dbid = view.primary.dbid }
    end,
    probe_mirror = function(view)
        return { kind = "probe", dbid = view.mirror and view.mirror.dbid }
    end,
    decide = function(view)
        view.memory.digest = view:digest()
        return { kind = "decide", key = "decide", facts = pairfacts.policy(view),
                 since = view.memory.story.seen }
    end,
    fence_primary = order("fence", "primary", "primary"),
    fence_old = order("fence", "old", "mirror"),
    mark_old = order("mark", "old", "mirror"),
    release = order("release", "primary", "primary"),
    promote = order("promote", "primary", "primary"),
    restart_primary = order("start", "primary", "primary"),
    restart_mirror = order("start", "old", "mirror"),
    record_promote = record("promote", "primary lost"),
    record_mirror_down = record("mirror_down", "mirror lost"),
    record_mirror_up = record("mirror_up", "the mirror streams again"),
    record_out_of_sync = record("out_of_sync", "commits do not wait for the mirror"),
    record_astray = function(view)
        local action = record("mirror_down")(view)
        action.reason = ("dbid %d is no mirror: %s"):format(view.mirror.dbid, view:astray())
        -- What its host saw may be a promotion that is not over: until it is marked and gone its
        -- primary is not released, or both would acknowledge.
        view.m.rival = view.now
        return action
    end,
    record_promoted = function(view)
        local done = view.memory.promoted or {}
        return { kind = "record", key = "promoted", fn = "promoted", dbid = view.primary.dbid,
                 epoch = view.memory.promoted_epoch, timeline = done.timeline,
                 switch_lsn = done.switch_lsn, story = view.memory.story }
    end,
    arm = function(view)
        return { kind = "arm", name = "arm", key = "arm", dbid = view.mirror.dbid,
                 epoch = view.pair.epoch }
    end,
    confirm = function(view)
        return { kind = "confirm", key = "catalog", dbid = view.primary.dbid }
    end,
    tell_hosts = function(view)
        return { kind = "tell_hosts", key = "catalog", dbid = view.primary.dbid,
                 seen = view.pair.epoch }
    end,
    point_fdw = function(view)
        return { kind = "fdw", name = "fdw", key = "fdw", dbid = view.primary.dbid,
                 failover = view.memory.promoted_at ~= nil }
    end,
    take_over = function(view)
        return { kind = "take_over", key = "lease", lease = view.input.lease,
            dbid = view.primary.dbid }
    end,
    tell_refusal = note("refused", function(view)
        local no = view:refusal()
        view.memory.refused = no.reason
        return ("no promotion: rule %d: %s"):format(no.rule, no.reason)
    end),
    tell_no_release = note("refused", function(view)
        local _, no = view:allowed("record_out")
        view.memory.refused = no.reason
        return ("no release: rule %d: %s"):format(no.rule, no.reason)
    end),
    tell_double_fault = function(view)
        view.memory.told_double = true
        local down = view.mirror.status == "d"
        return { kind = "journal", what = "double_fault", dbid = view.primary.dbid,
                 facts = pairfacts.policy(view), left = what_is_left(view),
                 text = ("double fault: %s; %s; nothing is promoted"):format(
                     condition.describe(view.p, view.pc),
                     condition.describe(view.m, down and "recorded as down" or view.mc)) }
    end,
    tell_stranger_primary = tell_stranger("primary"),
    tell_stranger_mirror = tell_stranger("mirror"),
    tell_astray = note("alert", function(view)
        view.memory.told_astray = view.m.dbid
        return ("dbid %d runs and is not taken for a mirror: %s; moonrise recoverseg makes it one")
            :format(view.m.dbid, view:astray())
    end),
    tell_older = note("alert", function(view)
        local why = view:older_copy()
        view.memory.told_older = why
        return ("dbid %d is an older copy of itself: %s; its mirror, dbid %d, has every "
            .. "acknowledged commit and takes over once dbid %d is stopped"):format(view.p.dbid,
            why, view.m.dbid, view.p.dbid)
    end),
    tell_disk_primary = tell_ailing("disk", "primary", DISK),
    tell_disk_mirror = tell_ailing("disk", "mirror", DISK),
    tell_refused_primary = tell_ailing("sessions", "primary", SESSIONS),
    tell_refused_mirror = tell_ailing("sessions", "mirror", SESSIONS),
    tell_alert = note("alert", function(view)
        view.memory.told_alert = view.memory.answer.reason
        return view.memory.answer.reason
    end),
    tell_wrong_role = note("alert", function(view)
        view.memory.told_alert = "wrong role"
        return ("dbid %d is the catalog's primary and is in recovery, though its roles were not"
            .. " changed: somebody has started it as a standby, or another server answers at its"
            .. " address"):format(view.primary.dbid)
    end),
}
