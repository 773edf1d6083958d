--- What is known about a pair: its memory, and what each event changes in it. Pure, as fts.lua is.
---
--- A memory is plain data of a fixed size, one per pair: `inst[dbid]` holds what was last seen and
--- heard of each instance, `tasks` what is under way, `retry` what failed and when it is tried
--- again, `answer` the policy's last word. Times are milliseconds of the caller's clock.
local condition = require("lib.condition")

local M = {}

--- Defaults of everything that can be tuned (cluster.lua's `watch`).
M.settings = {
    patience_tries = 4,
    patience_ms = 10000,
    grace_ms = 30000,
    recovery_stall_ms = 30000,
    shutdown_ms = 60000,
    ask_ms = 1000,
    check_ms = 30000,
    disk_ms = 5000,
    fresh_ms = 3000,
    heard_ms = 10000,
    flap_count = 5,
    flap_window_ms = 600000,
    retry_ms = 200,
    retry_max_ms = 10000,
    arm_retry_ms = 1000,
    arm_retry_max_ms = 60000,
    arm_lag_bytes = 2 ^ 20,
    replay_lag_bytes = 2 ^ 26,
}

local function copy(source)
    local target = {}
    for k, v in pairs(source) do
        target[k] = v
    end
    return target
end

--- A pair's memory before anything was seen.
---@param content integer
---@return table memory
function M.memory(content)
    return { content = content, inst = {}, tasks = {}, retry = {}, flaps = {}, story = {} }
end

--- A copy that can be written without touching the original; what was seen and heard is shared,
--- since observations and words are never changed.
---@param memory table
---@return table
function M.copy(memory)
    local new = copy(memory)
    new.inst, new.tasks, new.retry = {}, copy(memory.tasks), copy(memory.retry)
    new.story = copy(memory.story)
    for dbid, inst in pairs(memory.inst) do
        new.inst[dbid] = copy(inst)
    end
    return new
end

local function instance(memory, dbid)
    local inst = memory.inst[dbid]
    if not inst then
        inst = { dbid = dbid, tries = 0 }
        memory.inst[dbid] = inst
    end
    return inst
end

local function good(inst, seen)
    local last, again = inst.seen, inst.evidence ~= "ok"
    if last and seen.lsn and last.lsn and seen.lsn > last.lsn then
        inst.lsn_at = seen.at
    end
    inst.seen, inst.ok_at, inst.ok_begun = seen, seen.at, seen.at - (seen.took or 0)
    inst.evidence, inst.since, inst.tries = "ok", nil, 0
    inst.sysid = seen.sysid or inst.sysid
    if again or not last or last.in_recovery ~= seen.in_recovery then
        inst.role_at = seen.at
    end
    if not last or last.sync_names ~= seen.sync_names then
        inst.names_at = seen.at
    end
    -- A mirror knows its timeline while it receives. In the other role it had another one.
    if (seen.timeline or 0) > 0 then
        inst.timeline, inst.timeline_role = seen.timeline, seen.in_recovery and "m" or "p"
    end
    inst.highest = math.max(inst.highest or 0, seen.in_recovery and seen.lsn or 0)
end

local function bad(inst, seen)
    if inst.evidence ~= seen.evidence then
        inst.evidence_at = seen.at
        -- That its name was not known said nothing of the server itself.
        if inst.evidence == "unresolved" then
            inst.since, inst.tries = nil, 0
        end
    end
    inst.evidence, inst.at = seen.evidence, seen.at
    -- Silence began when it was asked, not when patience with the answer ran out.
    inst.since = inst.since or (seen.evidence == "timeout" and seen.at - (seen.took or 0))
        or seen.at
    inst.tries = inst.tries + 1
    inst.message = seen.message
    -- An answer is newer than a word that nobody is there.
    if condition.answers[seen.evidence] and inst.word and inst.word.stopped then
        inst.word, inst.word_begun, inst.asked_at = nil, nil, nil
    end
end

-- A postmaster that hangs goes on serving, and committing in, the sessions it has. So silence
-- towards a fresh session is kept as a doubt beside a standing session that answers, until a fresh
-- one comes about. A fresh one that is refused, since there are too many or there is no memory for
-- one more, is nothing against a server that serves those it has.
local function observe(inst, seen, settings)
    local silent = seen.evidence == "timeout" or seen.evidence == "no_new_session"
    local beside = (seen.fresh or seen.evidence == "no_new_session") and inst.ok_at
        and seen.at - inst.ok_at < settings.fresh_ms
        and (inst.evidence == "ok" or inst.evidence == "no_new_session")
    if seen.evidence == "ok" then
        if seen.fresh then
            inst.doubt_since, inst.doubts, inst.refusal = nil, nil, nil
            inst.fresh_at = seen.at
        end
        good(inst, seen)
    elseif silent and beside then
        -- It may have begun right after the last one that came about: patience counts from there.
        inst.doubt_since = inst.doubt_since or inst.fresh_at or seen.at - (seen.took or 0)
        inst.doubts = (inst.doubts or 0) + 1
    elseif beside and condition.refusals[seen.evidence] then
        inst.doubt_since, inst.doubts = nil, nil
        inst.refusal, inst.refused_with = seen.evidence, seen.message
    else
        inst.doubt_since, inst.doubts, inst.refusal = nil, nil, nil
        bad(inst, seen)
    end
    if inst.doubt_since then
        inst.evidence, inst.since, inst.tries = "no_new_session", inst.doubt_since, inst.doubts
    end
end

local IN_RECOVERY = { ["in archive recovery"] = true, ["shut down in recovery"] = true }

-- Who answered as a primary at a mirror's address is not the mirror: asked after that, its host
-- says that it is in recovery as ever.
local function contradicts(word, inst, pair)
    local control = word.control or {}
    return inst.rival ~= nil and inst.word_begun >= inst.rival
        and word.standby_signal == true and IN_RECOVERY[control.state]
        and (control.newest_timeline or math.huge) <= pair.timeline
end

local function hear(memory, inst, event, now, pair)
    -- A word from before the catalog's last change does not count as asked.
    local begun = event.begun or now
    inst.asked_at = begun >= (memory.changed_at or begun) and now or nil
    inst.word_at = now
    inst.word, inst.word_error, inst.word_begun = event.word, event.error, event.begun or now
    local word = event.word
    if not word then
        return
    elseif word.stopped and (word.epoch or {}).marked or contradicts(word, inst, pair) then
        -- Of one that is marked and gone: what runs there later has been recovered, or is marked.
        inst.rival = nil
    end
    local progress = word.recovery and word.recovery.progress
    if progress and (not inst.progress or progress > inst.progress) then
        inst.progress, inst.progress_at = progress, now
    elseif not progress then
        inst.progress, inst.progress_at = nil, nil
    end
end

local function streams(seen)
    return seen and seen.peer ~= nil and seen.peer.state == "streaming"
end

-- The primary's view of its mirror: since when it does not stream, how often that happened, since
-- when commits wait without the mirror having flushed anything more.
local function replication(memory, before, seen, settings)
    if streams(seen) then
        memory.unstreamed_at = nil
    elseif streams(before) then
        memory.unstreamed_at = seen.at
        local flaps = {}
        for _, at in ipairs(memory.flaps) do
            if seen.at - at < settings.flap_window_ms and #flaps < settings.flap_count then
                table.insert(flaps, at)
            end
        end
        table.insert(flaps, 1, seen.at)
        memory.flaps = flaps
    else
        memory.unstreamed_at = memory.unstreamed_at or seen.at
    end
    local flushed = seen.peer and seen.peer.flush_lsn
    if (seen.waiting or 0) == 0 or (flushed and flushed ~= memory.stall_lsn) then
        memory.stalled_at = nil
    end
    if (seen.waiting or 0) > 0 then
        memory.stalled_at = memory.stalled_at or seen.at
        memory.stall_lsn = flushed
    end
end

-- Once the primary is silent to us: when the mirror's receiver last got anything from it. What it
-- got before that says nothing; without traffic it asks for a sign of life (lib/settings.lua).
local function listen(memory, mirror, primary)
    local seen = mirror.seen
    local got_at = seen and seen.received_ms and mirror.ok_begun - seen.received_ms
    local since = primary and primary.since
    memory.heard_at = since and got_at and got_at > since and got_at or nil
end

-- Nothing came back, from it or from whatever is between; or nobody told us where it is.
local SILENT = { timeout = true, unreachable = true, unresolved = true }

-- Since when an instance was silent that gives a sign of life now, whatever else that says of it.
local function silence_ended(inst, seen)
    local since = inst.silent_at
    inst.silent_at = nil
    if SILENT[seen.evidence] then
        inst.silent_at = since or math.max(seen.at - (seen.took or 0), inst.ok_at or 0)
        return nil
    end
    return since
end

-- While neither of a pair was heard, the way to both may have been cut where we are: now that one
-- is heard again, that time counts against the other one no more.
local function forgive(memory, dbid, silent_at, now)
    for _, other in pairs(memory.inst) do
        if other.dbid ~= dbid and other.silent_at and other.since then
            local shared = now - math.max(other.silent_at, silent_at, other.since)
            other.since = other.since + shared
            other.doubt_since = other.doubt_since and other.doubt_since + shared
        end
    end
end

local function on_observation(memory, input)
    local seen = input.event.observation
    -- What the watcher's own process lacks is no news about an instance.
    if seen.evidence == "shortage" then
        return
    end
    local inst = instance(memory, seen.dbid)
    local before, silent_at = inst.seen, silence_ended(inst, seen)
    observe(inst, seen, input.settings)
    if silent_at then
        forgive(memory, seen.dbid, silent_at, seen.at)
    end
    local mirror = input.mirror and memory.inst[input.mirror.dbid]
    if seen.evidence == "ok" and seen.dbid == input.primary.dbid and not seen.in_recovery then
        replication(memory, before, seen, input.settings)
        if mirror and seen.peer and seen.peer.flush_lsn then
            mirror.highest = math.max(mirror.highest or 0, seen.peer.flush_lsn)
        end
    end
    if mirror then
        listen(memory, mirror, memory.inst[input.primary.dbid])
        if inst == mirror and seen.evidence == "ok" and not seen.in_recovery
            and input.mirror.status == "u" then
            inst.rival = seen.at
        end
    end
end

local function backoff(memory, key, now, settings)
    local count = (memory.retry[key] and memory.retry[key].count or 0) + 1
    local first, most = settings.retry_ms, settings.retry_max_ms
    if key == "arm" then
        first, most = settings.arm_retry_ms, settings.arm_retry_max_ms
    end
    memory.retry[key] = { count = count, at = now + math.min(most, first * 2 ^ (count - 1)) }
end

-- What a finished action changes in what is known, by the action's name.
local done = {
    fence = function(memory, event, now)
        local inst = instance(memory, event.dbid)
        inst.word = { stopped = true, processes = {}, fenced = true,
                      epoch = inst.word and inst.word.epoch,
                      control = inst.word and inst.word.control,
                      standby_signal = inst.word and inst.word.standby_signal, kind = "datadir" }
        inst.word_error, inst.word_begun, inst.word_at = nil, now, now
        -- Its primary waits for the host's word that a rival is marked and gone.
        inst.asked_at = not inst.rival and now - 20 or nil
        inst.evidence = inst.evidence == "ok" and "reset" or inst.evidence
        inst.since = inst.since or now
        memory.story.fenced = now
    end,
    mark = function(memory, event, now)
        local inst = instance(memory, event.dbid)
        local word, value = copy(inst.word or {}), event.value or {}
        word.epoch, word.control = copy(word.epoch or {}), word.control and copy(word.control)
        word.epoch.marked = true
        if word.control then
            word.control.aside = value.aside or false
        end
        inst.word, inst.marked_at = word, now
    end,
    release = function(memory, _, now)
        memory.maybe_armed, memory.acted_at = nil, now
        memory.stalled_at, memory.story.released = nil, now
    end,
    promote = function(memory, event, now)
        memory.promoted_epoch, memory.promoted_at = event.role_epoch, now
        memory.promoted = event.value
        memory.story.promoted = now
    end,
    record = function(memory, event, now)
        if event.fn == "mirror_down" or event.fn == "out_of_sync" then
            memory.maybe_armed, memory.story.recorded = true, now
        elseif event.fn == "promote" then
            memory.maybe_armed, memory.story.recorded = nil, now
        end
    end,
    arm = function(memory, _, now)
        memory.acted_at = now
    end,
    fdw = function(memory, event)
        memory.fdw_primary = event.dbid
    end,
}

local function on_result(memory, input)
    local event, now = input.event, input.now
    memory.tasks[event.key] = nil
    if event.ok then
        memory.retry[event.key] = nil
        if done[event.name] then
            done[event.name](memory, event, now)
        end
    else
        backoff(memory, event.key, now, input.settings)
    end
end

local function on_word(memory, input)
    local event = input.event
    memory.tasks["ask:" .. event.dbid] = nil
    hear(memory, instance(memory, event.dbid), event, input.now, input.pair)
end

-- Without an answer nothing is known of the disk: it stays what it was.
local function on_disk(memory, input)
    local event, inst = input.event, instance(memory, input.event.dbid)
    memory.tasks["disk:" .. event.dbid] = nil
    inst.disk_at = input.now
    if event.writable ~= nil then
        inst.disk_error = not event.writable and (event.disk_error or "no reason given") or nil
    end
end

local function on_answer(memory, input)
    memory.tasks.decide = nil
    memory.answer = input.event.answer
    memory.answer.at = input.now
    memory.story.decided = input.now
end

local take = {
    observation = on_observation, word = on_word, disk = on_disk, answer = on_answer,
    result = on_result,
    tick = function() end,
}

-- Whether an instance, when it was seen last, was not what the catalog says.
local function in_wrong_role(memory, dbid)
    local inst = memory.inst[dbid]
    return inst.evidence == "ok" and inst.seen.in_recovery == (dbid == memory.primary)
end

-- What was held against an instance before somebody else had finished working on it is void: it may
-- have been started, or changed its role, since it was seen last. So it counts as not seen yet.
local function begin_anew(memory, dbid)
    local inst = memory.inst[dbid]
    if inst.since or in_wrong_role(memory, dbid) then
        inst.evidence, inst.since, inst.evidence_at, inst.tries = nil, nil, nil, 0
        inst.seen, inst.ok_at, inst.ok_begun, inst.message = nil, nil, nil, nil
        inst.names_at = nil
        inst.word, inst.word_error, inst.word_begun, inst.asked_at = nil, nil, nil, nil
    end
    inst.doubt_since, inst.doubts, inst.refusal = nil, nil, nil
end

local function lease_ended(memory, input)
    local held = input.lease ~= nil or input.stopped == true
    if memory.leased and not held then
        memory.unstreamed_at, memory.stalled_at = nil, nil
        for dbid in pairs(memory.inst) do
            begin_anew(memory, dbid)
        end
    end
    memory.leased = held or nil
end

-- What was thought about an earlier configuration of the pair is void.
local function catalog_changed(memory, input)
    local epoch = input.pair.epoch or 0
    if memory.epoch ~= epoch or memory.primary ~= input.primary.dbid then
        memory.changed_at = memory.epoch and input.now or nil
        memory.answer, memory.digest, memory.refused = nil, nil, nil
        memory.unstreamed_at, memory.stalled_at = nil, nil
        -- Somebody may have recovered, marked or started something: the hosts are asked anew.
        for _, inst in pairs(memory.inst) do
            inst.asked_at, inst.word, inst.word_error, inst.word_begun = nil, nil, nil, nil
        end
    end
    if memory.primary ~= input.primary.dbid then
        for _, inst in pairs(memory.inst) do
            inst.timeline, inst.timeline_role, inst.rival = nil, nil, nil
        end
        if input.mirror then
            instance(memory, input.mirror.dbid).highest = nil
        end
        memory.heard_at = nil
        memory.flaps = {}
    end
    -- What was recovered starts anew: its earlier failures are not this one's.
    local status = input.mirror and input.mirror.status
    if memory.mirror_status == "d" and status == "u" then
        memory.flaps = {}
        begin_anew(memory, input.mirror.dbid)
        instance(memory, input.mirror.dbid).rival = nil
    end
    memory.epoch, memory.primary, memory.mirror_status = epoch, input.primary.dbid, status
    for dbid in pairs(memory.inst) do
        if dbid ~= input.primary.dbid and not (input.mirror and dbid == input.mirror.dbid) then
            memory.inst[dbid] = nil
        end
    end
end

--- Takes the event and the catalog's rows into a memory (which is changed: give it a copy).
---@param memory table
---@param input table as fts.step's
function M.take(memory, input)
    instance(memory, input.primary.dbid)
    if input.mirror then
        instance(memory, input.mirror.dbid)
    end
    local handler = take[input.event.kind] or error("fts: no such event: " .. input.event.kind, 0)
    handler(memory, input)
    catalog_changed(memory, input)
    lease_ended(memory, input)
end

--- When the newest evidence against one of the pair's instances began, or the primary was seen with
--- another wait than before, which a runbook may just have recorded; nil while there is neither.
---@param memory table
---@return number?
function M.doubted_at(memory)
    local newest = (memory.inst[memory.primary] or {}).names_at
    for dbid, inst in pairs(memory.inst) do
        local at = inst.since or (in_wrong_role(memory, dbid) and inst.role_at) or nil
        if at and at > (newest or 0) then
            newest = at
        end
    end
    return newest
end

--- The timeline of an instance, when it was seen in this role since it has it.
---@param inst table
---@param role "p"|"m"
---@return integer?
function M.timeline(inst, role)
    return inst.timeline_role == role and inst.timeline or nil
end

--- Whether the primary sees its mirror streaming.
---@param inst table the primary's
---@return boolean
function M.streams(inst)
    return streams(inst.seen) or false
end

return M
