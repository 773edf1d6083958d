--- The failure detector's state machine: one pure function and one table of rows.
---
---     memory, actions = fts.step(memory, input)
---
--- A step takes one event of one pair into the pair's memory, looks at the pair, and names what is
--- to be done. No I/O, no clock, no randomness: the watcher runs it on the live cluster, the
--- simulator on a virtual one. States are not remembered but derived each time (lib/pairview.lua)
--- from the catalog's rows and from what the instances really are. Each row therefore says how to
--- get from what is to what should be, whoever began it: a watcher that dies between two steps is
--- completed by the next.
---
--- Order of things, by rows: ask the host, ask the policy, ask the guard, fence, record, act.
local condition = require("lib.condition")
local fts_actions = require("lib.fts_actions")
local pairfacts = require("lib.pairfacts")
local pairview = require("lib.pairview")
local sight = require("lib.sight")

local M = {}

--- The states, and what they mean.
M.states = {
    leased = "a runbook works on this content: it is left alone",
    unconfirmed = "the pair has not confirmed its epochs since the standby was activated",
    abandoned = "a runbook's lease on this content has expired, or its process is gone",
    unseen = "the catalog's primary has not been seen yet",
    promoting = "the catalog's primary is still in recovery: it has not been promoted yet",
    wrong_role = "the catalog's primary is in recovery, and no promotion is pending",
    primary_lost = "there is evidence against the primary",
    double_fault = "the primary is lost and there is nobody to succeed it",
    alone = "the primary serves and has no mirror",
    mirror_down = "the mirror is recorded as down",
    mirror_lost = "there is evidence against the mirror, or commits wait for it",
    catching_up = "the mirror streams and commits do not wait for it yet",
    in_sync = "commits wait for the mirror",
}

--- What rows can ask for, by name.
M.actions = fts_actions

local ANY = { "promoting", "wrong_role", "primary_lost", "double_fault", "alone", "mirror_down",
              "mirror_lost", "catching_up", "in_sync", "unseen" }
local SERVING = { "alone", "mirror_down", "mirror_lost", "catching_up", "in_sync" }
local HALF = { "mirror_down", "primary_lost", "double_fault", "promoting", "unseen" }
local PEACE = { "alone", "mirror_down", "catching_up", "in_sync" }
local TROUBLE = { "primary_lost", "double_fault", "mirror_lost" }
local LOST = { "primary_lost", "double_fault" }

local function both(...)
    local tests = { ... }
    return function(view)
        for _, test in ipairs(tests) do
            if not test(view) then
                return false
            end
        end
        return true
    end
end

local function acting(...)
    local keys = { ... }
    return function(view)
        return view:acting(unpack(keys))
    end
end

local function answered(action)
    return function(view)
        return view:answered(action)
    end
end

local function allowed(name)
    return function(view)
        return view:allowed(name) == true
    end
end

local function says(method)
    return function(view)
        return view[method](view)
    end
end

local pair_free = acting("catalog", "primary", "arm")

--- from: states; event: kind of event ("any", or a result's name as "result:promote"); when: a
--- further condition; to: the state that follows when the actions succeed; actions: names; comment:
--- why.
M.rows = {
    -- Somebody else's work
    { from = { "abandoned" }, event = "any", when = acting("lease"), to = "unseen",
      actions = { "take_over" },
      comment = "what the runbook began is finished or undone, then its lease is dropped" },

    -- After an activation of the standby coordinator
    { from = { "unconfirmed" }, event = "any", when = acting("catalog"), to = "unseen",
      actions = { "confirm" },
      comment = "its hosts are asked which epochs they have seen: before that it is left alone" },

    -- Asking
    { from = ANY, event = "any", when = says("ask_primary_due"), to = "same",
      actions = { "ask_primary" },
      comment = "the host's word: at once for news, each second in trouble, rarely in peace" },
    { from = ANY, event = "any", when = says("ask_mirror_due"), to = "same",
      actions = { "ask_mirror" }, comment = "the mirror's host likewise" },
    { from = ANY, event = "any", when = says("disk_primary_due"), to = "same",
      actions = { "disk_primary" },
      comment = "a full or read-only disk shows in no answer to a question that only reads" },
    { from = ANY, event = "any", when = says("disk_mirror_due"), to = "same",
      actions = { "disk_mirror" }, comment = "the mirror's disk likewise" },
    { from = ANY, event = "any", when = function(view)
        return view:disk_untold("primary")
    end, to = "same", actions = { "tell_disk_primary" }, comment = "as it begins, as it ends" },
    { from = ANY, event = "any", when = function(view)
        return view:disk_untold("mirror")
    end, to = "same", actions = { "tell_disk_mirror" }, comment = "as it begins, as it ends" },
    { from = ANY, event = "any", when = function(view)
        return view:refusal_untold("primary")
    end, to = "same", actions = { "tell_refused_primary" },
      comment = "it serves those that it has, and lets nobody else in" },
    { from = ANY, event = "any", when = function(view)
        return view:refusal_untold("mirror")
    end, to = "same", actions = { "tell_refused_mirror" }, comment = "the mirror likewise" },
    { from = { "primary_lost" }, event = "observation", when = function(view)
        return view.pc == "suspect" and view.p.tries == 1
            and view.input.event.observation.dbid == view.primary.dbid
    end, to = "same", actions = { "probe_mirror", "probe_primary" },
      comment = "the mirror answers for itself first; a reset may be a crash restart" },
    { from = { "primary_lost" }, event = "observation", when = function(view)
        local seen = view.input.event.observation
        return seen.dbid == view.primary.dbid and view.p.tries > 1
            and (seen.evidence == "timeout" or seen.evidence == "no_new_session")
    end, to = "same", actions = { "probe_primary" },
      comment = "silence has taken its time already: it is asked again at once" },
    { from = TROUBLE, event = "any", when = says("policy_due"), to = "same", actions = { "decide" },
      comment = "the evidence changed, or the wait that the policy asked for ran out" },
    { from = PEACE, event = "any", when = both(says("ails"), says("policy_due")), to = "same",
      actions = { "decide" },
      comment = "it still serves, and will not for long: nobody is promoted by this alone" },

    -- The primary is lost
    { from = LOST, event = "any",
      when = both(pair_free, answered("promote"), allowed("promote")), to = "promoting",
      actions = { "record_promote" },
      comment = "record first: the roles change in the catalog, then the mirror is promoted" },
    { from = LOST, event = "any",
      when = both(pair_free, answered("promote"), function(view)
        return view.pc ~= "stopped" and view.pc ~= "unreachable" and view:allowed("fence") == true
    end), to = "same", actions = { "fence_primary" },
      comment = "its host answers: each process of the old server is ended, then decided again" },
    { from = LOST, event = "any", when = both(answered("promote"), function(view)
        local no = view:refusal()
        return no ~= nil and view.memory.refused ~= no.reason and view:free("primary", "catalog")
            and not (no.rule == 1 and view.now - (view.p.since or 0) < 1000)
    end), to = "same", actions = { "tell_refusal" },
      comment = "the policy wants it, a rule forbids it; the mirror had a second to answer" },
    { from = { "double_fault" }, event = "any", when = function(view)
        return not view.memory.told_double and view.mc ~= "suspect" and view:looked()
            and view:surveyed()
    end, to = "double_fault", actions = { "tell_double_fault" },
      comment = "nothing is promoted; whichever comes back is handled when that is safe" },
    { from = ANY, event = "any", when = both(answered("alert"), function(view)
        return view.memory.told_alert ~= view.memory.answer.reason
    end), to = "same", actions = { "tell_alert" }, comment = "once for each reason" },

    -- A promotion that is recorded
    { from = { "promoting" }, event = "any",
      when = both(acting("primary", "catalog"), function(view)
        return not view:just_promoted()
    end), to = "mirror_down", actions = { "promote" },
      comment = "the catalog's primary is in recovery: promoted now, or by the next watcher" },
    { from = SERVING, event = "any",
      when = both(acting("primary", "catalog"), says("promotion_untold")), to = "same",
      actions = { "promote" },
      comment = "whoever promoted it died before saying so: a repeated order tells where" },
    { from = { "mirror_down", "promoting", "mirror_lost", "catching_up", "in_sync" },
      event = "result:promote", when = acting("promoted"), to = "mirror_down",
      actions = { "record_promoted", "probe_primary", "point_fdw" },
      comment = "its timeline and switch position are history; clients are pointed to it" },
    { from = SERVING, event = "any",
      when = both(acting("promoted"), says("promotion_unrecorded")), to = "same",
      actions = { "record_promoted", "point_fdw" },
      comment = "it could not be recorded at that time: without it no mirror comes in sync again" },
    { from = { "wrong_role" }, event = "any", when = function(view)
        return view.memory.told_alert ~= "wrong role" and view:looked()
    end, to = "wrong_role", actions = { "tell_wrong_role" },
      comment = "without a recorded change of roles nobody is promoted" },

    -- The old primary
    { from = HALF, event = "any", when = both(acting("old"), says("must_mark")), to = "same",
      actions = { "mark_old" },
      comment = "by its files it was a primary: it must not start before it has been recovered" },
    { from = HALF, event = "any", when = both(acting("old"), says("must_fence_old")), to = "same",
      actions = { "fence_old" }, comment = "it came back by itself: marked first, stopped then" },
    { from = HALF, event = "any", when = both(acting("old"), says("must_set_aside")), to = "same",
      actions = { "mark_old" },
      comment = "marked while it ran: now its pg_control is moved aside" },

    -- Started by somebody else
    { from = LOST, event = "any", when = both(acting("primary", "catalog"), function(view)
        return view:stranger("primary") and not view:before_arming() and not view:older_copy()
    end), to = "same", actions = { "tell_stranger_primary", "restart_primary" },
      comment = "it runs and no client reaches it: restarted as it should be" },
    { from = { "mirror_down", "mirror_lost", "primary_lost", "double_fault" }, event = "any",
      when = both(acting("old"), function(view)
        return view:stranger("mirror") and not view:behind_promotion() and not view:astray()
    end), to = "same", actions = { "tell_stranger_mirror", "restart_mirror" },
      comment = "likewise; one that was a primary is marked and ended instead" },

    -- The mirror is lost
    { from = { "mirror_lost" }, event = "any",
      when = both(pair_free, answered("release"), function(view)
        return not (view.mode == "s" and view.mc == "fine" and view.streaming
            and not view:flapping())
    end, allowed("record_out")), to = "mirror_down", actions = { "record_mirror_down" },
      comment = "record first: only then its primary is released" },
    { from = { "mirror_lost" }, event = "any",
      when = both(pair_free, answered("release"), function(view)
        return view.mode == "s" and view.mc == "fine" and view.streaming and not view:flapping()
    end, allowed("record_out")), to = "catching_up", actions = { "record_out_of_sync" },
      comment = "the mirror is there and commits hang: not waited for, then armed anew" },
    { from = { "mirror_lost" }, event = "any",
      when = both(pair_free, answered("release"), function(view)
        local _, no = view:allowed("record_out")
        return no ~= nil and view.memory.refused ~= no.reason
    end), to = "same", actions = { "tell_no_release" },
      comment = "the policy wants it, a rule or a pause forbids it: said once" },
    { from = { "mirror_down", "catching_up", "mirror_lost" }, event = "any",
      when = both(pair_free, says("still_armed"), says("looked"), function(view)
        return not view:rival()
    end, allowed("release")), to = "same", actions = { "release" },
      comment = "the catalog says n and the primary waits, or has not been seen not to since" },

    -- The mirror has a history of its own
    { from = { "in_sync", "catching_up", "mirror_lost" }, event = "any",
      when = both(pair_free, says("looked"), says("astray"), allowed("record_out")),
      to = "mirror_down", actions = { "record_astray" },
      comment = "promoted, or run as a primary, by somebody else: a copy is made by recoverseg" },
    { from = { "mirror_down" }, event = "any", when = function(view)
        return view.mc ~= "stopped" and view:looked() and view:astray() ~= nil
            and view.memory.told_astray ~= view.m.dbid
    end, to = "mirror_down", actions = { "tell_astray" },
      comment = "it runs, and may stream: nothing is built on it" },

    -- The primary lacks what its mirror has
    { from = ANY, event = "any", when = function(view)
        local why = view.pc ~= "stopped" and view:looked() and view:older_copy()
        return why and view.memory.told_older ~= why
    end, to = "same", actions = { "tell_older" },
      comment = "an older copy of itself was started in its place: its mirror is not let go" },

    -- The mirror is back
    { from = { "mirror_down" }, event = "any", when = both(pair_free, function(view)
        return view.mc == "fine" and view.streaming and not view:flapping() and view.m.word ~= nil
            and (view.m.word.epoch or {}).valid and not view.m.word.epoch.marked
            and not view:behind_promotion() and not view:still_armed() and not view:astray()
    end), to = "catching_up", actions = { "record_mirror_up" },
      comment = "it streams, it was never promoted, its epoch agrees" },
    { from = { "catching_up" }, event = "any", when = both(pair_free, function(view)
        return view.streaming and view.mc == "fine" and view:current() and not view:still_armed()
    end, allowed("arm")), to = "in_sync", actions = { "arm" },
      comment = "close enough for writers to wait: armed with a canary, recorded when proven" },

    -- In sync, or so the catalog says
    { from = { "in_sync", "mirror_lost", "primary_lost", "double_fault" }, event = "any",
      when = both(pair_free, says("disarmed"), says("looked"), function(view)
        return view.mode == "s"
    end, allowed("record_disarmed")), to = "catching_up", actions = { "record_out_of_sync" },
      comment = "somebody changed the primary's settings: commits do not wait, so s is not true, "
          .. "and will not be when another watcher judges, or the primary is gone" },

    -- The hosts' records
    { from = PEACE, event = "any", when = both(acting("catalog"), says("hosts_are_ahead")),
      to = "same", actions = { "tell_hosts" },
      comment = "they know of a release that did not come about: told by an epoch of its own" },

    -- Clients
    { from = SERVING, event = "any", when = both(acting("fdw"), function(view)
        return view.primary.content >= 0 and view.memory.fdw_primary ~= view.primary.dbid
    end), to = "same", actions = { "point_fdw" },
      comment = "the coordinator's foreign servers name this primary first" },
}

local function index_rows()
    local by_state = {}
    for state in pairs(M.states) do
        by_state[state] = {}
    end
    for _, row in ipairs(M.rows) do
        for _, state in ipairs(row.from) do
            table.insert(by_state[state], row)
        end
    end
    return by_state
end

local rows_of = index_rows()

local function event_name(event)
    if event.kind == "result" then
        return event.ok and "result:" .. (event.name or "") or "result"
    end
    return event.kind
end

local function fire(view, row, actions)
    for _, name in ipairs(row.actions) do
        local action = M.actions[name](view)
        local key = action.key
        if not key or not view.memory.tasks[key] then
            action.content = view.primary.content
            if key then
                view.memory.tasks[key] = view.now
            end
            table.insert(actions, action)
        end
    end
end

-- What a watcher sees first is only news when it is not as it should be.
local AT_PEACE = { unseen = true, alone = true, in_sync = true, catching_up = true }

local function news(from, to)
    return not (AT_PEACE[to] and (from == nil or from == "unseen"))
end

local FAULTS = { primary_lost = true, double_fault = true, mirror_lost = true, promoting = true,
                 wrong_role = true }

-- The story of a fault begins when the pair was last as it should be.
local function begin_story(memory, view)
    if FAULTS[view.state] and not FAULTS[memory.state] then
        memory.story = { seen = view.p.since or (view.m and view.m.since) }
    end
end

-- What was decided for a fault that is over decides nothing of the next one, however alike. That a
-- primary did not wait is remembered until it is armed anew: it may never answer again.
local function forget_or_keep(memory, view)
    if memory.state ~= view.state then
        memory.answer, memory.digest = nil, nil
    end
    -- Under another name it may have been armed anew a moment ago: the catalog says so.
    if view.mode == "s" and view:looked() and view:disarmed() then
        memory.disarmed = view.pair.armed_name
    end
end

local function tell_change(memory, view, actions)
    if memory.state == view.state or not view:looked() then
        return
    end
    begin_story(memory, view)
    local text = ("%s: primary %s"):format(view.state, condition.describe(view.p, view.pc))
    if view.m then
        text = text .. ("; mirror %s"):format(condition.describe(view.m, view.mc))
    end
    if news(memory.state, view.state) then
        table.insert(actions, { kind = "journal", what = "state", content = view.primary.content,
                                dbid = view.primary.dbid, text = text, from = memory.state,
                                to = view.state, facts = pairfacts.policy(view) })
    end
    memory.state = view.state
    if view.state ~= "double_fault" and view.state ~= "primary_lost" then
        memory.told_double = nil
    end
    if view.state == "in_sync" or view.state == "catching_up" then
        memory.told_alert, memory.refused, memory.told_astray = nil, nil, nil
        memory.told_older = nil
    end
end

-- The next moment at which something may be due without an event: the watcher sends a tick then.
local function wake(memory, view)
    local at, now = nil, view.now
    local function sooner(when)
        if when and when > now and (not at or when < at) then
            at = when
        end
    end
    for _, retry in pairs(memory.retry) do
        sooner(retry.at)
    end
    local answer = memory.answer
    sooner(answer and answer.until_ms and answer.at + answer.until_ms)
    sooner(view.input.paused_until)
    sooner(view:ask_at("primary"))
    sooner(view:ask_at("mirror"))
    return at
end

--- A pair's memory before anything was seen.
---@param content integer
---@return table memory plain data
function M.memory(content)
    return sight.memory(content)
end

---@class FtsInput
---@field now number milliseconds of any clock that does not jump
---@field primary table the catalog's row
---@field mirror? table
---@field pair table {epoch, role_epoch, promoted_epoch, armed_name, armed_timeline} of the catalog
---@field lease? {token, holder, intent, step, expires, gone} the content's, on the clock of `now`;
--- gone: its holder was a process of this host and has ended
---@field looked_at? number when the catalog's rows and leases were asked for; nil without a catalog
---@field leader boolean whether this process holds the watcher's lease
---@field majority? boolean a majority of the hosts answers to record what is decided for content -1
---@field hosts_ahead? boolean hosts have something else on record of the coordinator's pair
---@field unconfirmed? boolean since an activation of the standby coordinator
---@field paused? string until when, by whom and why nothing is promoted or released here
---@field paused_until? number when that ends, on the clock of `now`
---@field server_version? integer
---@field settings table sight.settings
---@field event table {kind = "observation", observation}, {kind = "word", dbid, word|error, begun},
--- {kind = "answer", answer}, {kind = "result", key, name, ok, ...} or {kind = "tick"}

--- One step of one pair.
---@param memory table not changed
---@param input FtsInput
---@return table memory the next one; `memory.wake` is when a tick is wanted at the latest
---@return table[] actions
function M.step(memory, input)
    local next_memory = sight.copy(memory)
    sight.take(next_memory, input)
    local view = pairview.new(next_memory, input)
    local actions = {}
    forget_or_keep(next_memory, view)
    tell_change(next_memory, view, actions)
    local event = event_name(input.event)
    for _, row in ipairs(rows_of[view.state]) do
        if (row.event == "any" or row.event == event) and row.when(view) then
            fire(view, row, actions)
        end
    end
    next_memory.wake = wake(next_memory, view)
    return next_memory, actions
end

return M
