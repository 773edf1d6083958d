--- Bringing failed instances back: what is wrong with them, which type of recovery, and doing it.
---
--- `ctx` is { env, cat, agents } as lib/session.lua makes it. Nothing here decides: the
--- `recovery` policy does, within what `possible` allows.
local mr = require("moonrise")
local agents = require("lib.agents")
local arming = require("lib.arming")
local as_planned = require("lib.as_planned")
local cluster = require("lib.cluster")
local history = require("lib.history")
local hold = require("lib.hold")
local instance = require("lib.instance")
local left_places = require("lib.left_places")
local live_move = require("lib.live_move")
local move = require("lib.move")
local quiet = require("lib.quiet")
local recovery_copy = require("lib.recovery_copy")
local streaming = require("lib.streaming")
local term = require("lib.term")

local M = {}

-- A walk through a big directory on a cold disk takes minutes.
local MEASURE_MS = 600000
local STREAM_DEADLINE_MS = 120000
local ARM_DEADLINE_MS = 10000

---@class Failed
---@field content integer
---@field target table the instance's catalog row
---@field source table the row of the pair's primary
---@field word table the host's word about the target
---@field source_word table
---@field possible table<string, boolean> "start", "differential", "full"
---@field why string why "start" or "differential" is not possible, or ""
---@field foreign_system? boolean the directory belongs to another cluster
---@field from? table of a recovery to another place: the catalog's row; `target` has the new place
---@field resumes? boolean of such a one: what an earlier run has copied there is gone on with
---@field stays? boolean of such a one: its directory is the same, only port or address is new
---@field noted? boolean of a move of a mirror that is up: its new place is on record
---@field takes_out? boolean of such a one: the mirror is up, and taken out of the pair first

-- The system that a directory belongs to, by its pg_control or, when that is not in its place, by
-- the unfinished recovery that has moved it; nil when nothing tells.
local function system_of(word)
    local control = word.control
    local patch_sysid = word.patch and word.patch.sysid ~= "" and word.patch.sysid or nil
    if control and not (control.aside and patch_sysid) then
        return control.sysid
    end
    return patch_sysid
end

local function possible_types(ctx, failed)
    local word, source = failed.word, failed.source_word
    local state, err = ctx.cat:pair_state(failed.content)
    local refusal = tostring(err)
    if state then
        refusal = instance.start_refusal(history.compare(ctx.agents, word, failed.source), state)
    end
    if not refusal then
        refusal, err = streaming.slot_problem(ctx, failed.source, failed.target)
        refusal = refusal or err and tostring(err)
    end
    local system = system_of(word)
    local same_system = system ~= nil and source.control and system == source.control.sysid
    local possible = { start = refusal == nil, full = true }
    possible.differential = (word.kind == "datadir" or word.kind == "half-made") and same_system
        or false
    local why = refusal or ""
    if word.kind == "foreign" then
        possible.full = false
        why = "the directory is not empty and is no data directory"
    elseif system and not same_system then
        -- Nobody's policy replaces it: who asks for just that does (recovery_plan).
        failed.foreign_system = true
        possible.full = false
        why = "its data directory belongs to another cluster"
    end
    return possible, why
end

--- Asks the hosts of a failed mirror and its primary.
---@param ctx table
---@param pair table {content, primary, mirror}
---@param to? Place where it shall be instead of where it is
---@return Failed? failed
---@return Error? err
function M.examine(ctx, pair, to)
    local target = to and move.row(pair.mirror, to) or pair.mirror
    local word, err = ctx.agents:inspect(target)
    if not word then
        return nil, err
    end
    local source_word
    source_word, err = ctx.agents:inspect(pair.primary, { measure = true },
        { timeout_ms = MEASURE_MS })
    if not source_word then
        return nil, err
    end
    local failed = { content = pair.content, target = target, source = pair.primary,
                     from = to and pair.mirror, word = word, source_word = source_word }
    if source_word.stopped then
        return nil, mr.error("refused", "its primary does not run", {
            instance = cluster.name(pair.primary),
            hint = "both instances are down: start the primary first (moonrise start)" })
    elseif (source_word.postmaster or {}).listen == "" then
        return nil, mr.error("refused", "somebody else has started its primary: it listens nowhere",
            { instance = cluster.name(pair.primary),
              hint = "no mirror reaches it; moonrise start starts it as it should be" })
    end
    if to then
        return move.check(ctx, failed)
    end
    failed.possible, failed.why = possible_types(ctx, failed)
    return failed
end

--- What a recovery costs: bytes to read and to write, seconds by the rates given.
---@param failed Failed
---@param kind string
---@param rates {read: number, write: number} bytes a second
---@return {read_bytes: number, send_bytes: number, seconds: number}
function M.price(failed, kind, rates)
    local bytes = failed.source_word.data_bytes or 0
    if kind == "start" then
        return { read_bytes = 0, send_bytes = 0, seconds = 1 }
    elseif kind == "full" then
        return { read_bytes = bytes, send_bytes = bytes, seconds = bytes / rates.write }
    end
    return { read_bytes = 2 * bytes, send_bytes = math.floor(bytes / 100),
             seconds = 2 * bytes / rates.read }
end

-- A mirror that runs and does not stream is no mirror: its catalog row stays as it was.
local function start(ctx, failed, epoch)
    if not quiet.runs(failed.word) then
        local stopped, why = quiet.stop(ctx, failed.target, failed.word, epoch)
        if not stopped then
            return nil, why
        end
    end
    local numbers, err = ctx.agents:order(failed.target, "start", {
        epoch = epoch,
        listen = instance.listen(failed.target),
        wait_ms = STREAM_DEADLINE_MS,
    }, { timeout_ms = STREAM_DEADLINE_MS + 5000 })
    if numbers and not numbers.streaming then
        return nil, mr.error("refused", "it was started and does not stream from its primary",
            { hint = "its log says why; moonrise recoverseg --differential copies what differs" })
    elseif not numbers then
        return nil, err
    end
    -- An old primary that a handover had shut down still has the slot of its mirror then; it would
    -- pin WAL for ever.
    local dropped
    dropped, err = ctx.agents:order(failed.target, "slot", { epoch = epoch,
        step = agents.steps.start + 1, create = false, name = instance.slot_name(failed.source) })
    return dropped and numbers, err
end

-- The mirror is up once its primary streams to it; then it is armed, or left to the watcher.
local function settle(ctx, failed, token, kind, text)
    local ok, err = true, nil
    -- Whatever its primary's past is, a copy has the same one.
    if kind ~= "start" then
        ok, err = ctx.cat:call("timeline_seen", token, failed.content,
            failed.source_word.control.newest_timeline)
    end
    if ok and failed.from then
        ok, err = move.done(ctx, failed, token, text)
    end
    if ok then
        -- Also of a recovery in place: an earlier run may have ended when it had moved the row.
        move.tell_clients(ctx, failed.content)
        ok, err = ctx.cat:call("mirror_up", token, failed.content, text)
    end
    if not ok then
        return nil, err
    end
    local armed, armed_err = arming.arm_within(ctx, {
        content = failed.content, primary = failed.source, mirror = failed.target }, token,
            ARM_DEADLINE_MS)
    if not armed then
        term.debug("%s: not in sync yet: %s", cluster.name(failed.target), tostring(armed_err))
    end
    return true
end

-- The plan may be minutes old, and the word with it. What is asked under the lease holds.
local function refresh(ctx, failed)
    local ok, err = as_planned(ctx, failed, not failed.takes_out and "d" or nil)
    if not ok then
        return nil, err
    end
    failed.word, err = ctx.agents:inspect(failed.target)
    return failed.word and true, err
end

-- One try by one type, with an epoch of its own.
local function attempt(ctx, failed, kind, token, options)
    local epoch, err
    if failed.from then
        epoch, err = move.begin(ctx, failed, token)
    else
        epoch, err = ctx.cat:call("epoch_reserve", token, failed.content,
            ("recover dbid %d (%s)"):format(failed.target.dbid, kind))
    end
    if not epoch then
        return nil, err
    end
    local numbers
    if kind == "start" then
        numbers, err = start(ctx, failed, epoch)
    elseif kind == "switch" then
        numbers, err = live_move.switch(ctx, failed, epoch)
    else
        numbers, err = recovery_copy.make(ctx, failed, kind, epoch, options)
    end
    local ok
    if numbers then
        ok, err = streaming.confirm(ctx, failed.source, failed.target)
    end
    if not ok then
        return nil, err
    end
    numbers.type = kind
    return numbers
end

-- Failures of a start that a copy would share.
local NO_REASON_TO_COPY = { cancelled = true, connect = true, stale = true, busy = true }

-- What cannot just be started is copied: nobody has to come back for that.
local function attempts(ctx, failed, kind, token, options)
    local numbers, err = attempt(ctx, failed, kind, token, options)
    if numbers or kind ~= "start" or NO_REASON_TO_COPY[err.code]
        or not failed.possible.differential then
        return numbers, err
    end
    term.warn("%s: %s; now the blocks that differ are copied", cluster.name(failed.target),
        err.message)
    failed.word, err = ctx.agents:inspect(failed.target)
    if not failed.word then
        return nil, err
    end
    return attempt(ctx, failed, "differential", token, options)
end

local function record(ctx, failed, numbers)
    ctx.cat:journal("recovered", { content = failed.content, dbid = failed.target.dbid,
        text = ("%s: recovered by %s in %s"):format(cluster.name(failed.target), numbers.type,
            term.duration(numbers.took_ms)),
        data = {
            type = numbers.type, bytes_done = numbers.bytes_done, took_ms = numbers.took_ms,
            bytes_written = numbers.bytes_written, bytes_different = numbers.bytes_different,
            resumed = numbers.resumed, wal = numbers.wal, wal_bytes = numbers.wal_bytes,
        } })
end

--- Brings a pair in sync whose mirror is up: an earlier run ended before it was, or it is behind.
---@param ctx table
---@param pair table
---@return {armed: boolean}? done
---@return Error? err code "connect" when one of the two does not answer
function M.bring_in_sync(ctx, pair)
    return hold.content(ctx, pair.content, "recover", "arm", function(lease)
        local ok, err = arming.arm_within(ctx, pair, lease.token, ARM_DEADLINE_MS)
        return ok and { armed = true } or nil, err
    end)
end

-- What a move that was killed in its switch has left may stream from the slot: it would be taken
-- for the mirror that is recovered where it is.
local function free_slot(ctx, failed, token)
    local slot = instance.slot_name(failed.target)
    local function is_held()
        return streaming.holds(ctx, failed.source, slot)
    end
    if failed.from or not failed.word.stopped or not is_held()
        or left_places.of_content(ctx, failed.content, token) == 0 or not is_held() then
        return true
    end
    return nil, mr.error("busy", ("somebody else streams from its slot %s"):format(slot), {
        instance = cluster.name(failed.target),
        hint = "what an earlier run has left at another place still runs: stop it" })
end

-- All of a recovery, under the lease of its content.
local function recover(ctx, failed, kind, token, options)
    local began = mr.clock()
    local numbers
    local ok, err = free_slot(ctx, failed, token)
    if ok then
        numbers, err = attempts(ctx, failed, kind, token, options)
        ok = nil
    end
    if numbers then
        ok, err = settle(ctx, failed, token, numbers.type,
            ("recover dbid %d (%s)"):format(failed.target.dbid, numbers.type))
    end
    if not ok then
        if failed.from then
            move.undo(ctx, failed)
        end
        return nil, err
    end
    if failed.from then
        move.finish(ctx, failed, token)
    end
    left_places.of_content(ctx, failed.content, token)
    numbers.took_ms = mr.clock() - began
    record(ctx, failed, numbers)
    return numbers
end

--- Recovers one instance under the lease of its content. Where a start is not enough it copies.
---@param ctx table
---@param failed Failed
---@param kind "start"|"differential"|"full"|"switch" the last: to a copy of lib/live_move.lua's
---@param options CopyOptions
---@return table? numbers with the type that it came to
---@return Error? err
function M.recover(ctx, failed, kind, options)
    return hold.content(ctx, failed.content, "recover", kind, function(lease)
        local ok, err = refresh(ctx, failed)
        if ok and failed.takes_out then
            ok, err = move.take_out(ctx, failed, lease.token)
        end
        if not ok then
            return nil, err
        end
        return recover(ctx, failed, kind, lease.token, options)
    end)
end

return M
