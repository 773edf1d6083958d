--- A pair for specs of the state machine: its catalog rows, a clock, and the actions that fts.step
--- asked for. Nothing is carried out unless a spec says what came of it.
---
---     local pair = require("tests.lib.pair").new({ mode = "s" })
---     pair:sees(2, "reset")
---     assert.is_not_nil(pair:asked("ask", 2))
local fts = require("lib.fts")
local sight = require("lib.sight")

local copy = require("tests.lib.copy")

local packaged = dofile("policies/failover.lua").decide

local M = {}
local Pair = {}
Pair.__index = Pair

M.PRIMARY, M.MIRROR = 2, 3

local function row(dbid, role, mode, status)
    return { dbid = dbid, content = 0, role = role, preferred_role = role, mode = mode,
             status = status, port = 6000 + dbid, hostname = "h" .. dbid,
             address = "h" .. dbid, datadir = "/d" .. dbid }
end

--- `options`: mode, status (the mirror's), content, mirror = false for none, leader, settings,
--- policy (a function of the facts; the packaged one decides unless given).
---@param options? table
function M.new(options)
    options = options or {}
    local settings = setmetatable(options.settings or {}, { __index = sight.settings })
    local self = setmetatable({
        now = 100000, memory = fts.memory(options.content or 0), log = {},
        policy = options.policy or packaged,
        input = {
            primary = row(M.PRIMARY, "p", options.mode or "s", "u"),
            mirror = options.mirror ~= false and row(M.MIRROR, "m", options.mode or "s",
                options.status or "u") or nil,
            pair = { epoch = 10, role_epoch = options.role_epoch or 0, promoted_epoch = 0,
                     armed_name = "mr_0_3_9", armed_timeline = 1, timeline = 1 },
            leader = options.leader ~= false, majority = true, server_version = 150020,
            settings = settings,
        },
    }, Pair)
    self.input.primary.content = options.content or 0
    return self
end

--- Time passes.
function Pair:after(ms)
    self.now = self.now + ms
    return self
end

-- Facts are plain data; a step must not change the memory that it was given.
local function snapshot(value)
    if type(value) ~= "table" then
        return value
    end
    local whole = {}
    for k, v in pairs(value) do
        whole[k] = snapshot(v)
    end
    return whole
end

--- One event; the new actions are in self.actions and at the end of self.log.
function Pair:event(event)
    self.input.now, self.input.event = self.now, event
    local before = snapshot(self.memory)
    local memory, actions = fts.step(self.memory, self.input)
    assert(require("luassert.util").deepcompare(before, self.memory), "a step changed its argument")
    self.memory, self.actions = memory, actions
    for _, action in ipairs(actions) do
        table.insert(self.log, action)
        if action.kind == "decide" then
            self:event({ kind = "answer", answer = self.policy(action.facts) })
        end
    end
    return self
end

--- A probe's outcome. `more` replaces fields of a healthy answer.
function Pair:sees(dbid, evidence, more)
    local primary = dbid == self.input.primary.dbid
    self.now = self.now + 1
    local seen = { dbid = dbid, evidence = evidence, at = self.now, took = 1, fresh = false }
    if evidence == "ok" then
        seen.in_recovery, seen.timeline, seen.sysid, seen.lsn = not primary, 1, "7", 5000
        seen.replay_lsn = not primary and 5000 or nil
        seen.sync_names, seen.sync_commit = "", "on"
        if primary then
            seen.sync_names = self.input.primary.mode == "s" and '"mr_0_3_9"' or ""
            seen.peer = { name = "mr_0_3", state = "streaming", sync = "async", flush_lsn = 5000 }
            seen.waiting = 0
        end
    end
    for k, v in pairs(more or {}) do
        seen[k] = v
        if v == M.none then
            seen[k] = nil
        end
    end
    return self:event({ kind = "observation", observation = seen })
end

M.none = {}

--- What a host says of a sound, running instance.
function M.word(more)
    return copy({ kind = "datadir", stopped = false, processes = { { pid = 1 } },
                  postmaster = { alive = true },
                  control = { sysid = "7", aside = false, timeline = 1, newest_timeline = 1 },
                  epoch = { valid = true, epoch = 9, marked = false, sysid = "7" },
                  standby_signal = true }, more)
end

M.stopped = { stopped = true, processes = {}, postmaster = { alive = false } }
M.gone = { postmaster = { alive = false } }

--- The host's word; `what` false is none: the host does not answer.
function Pair:says(dbid, what)
    return self:event({ kind = "word", dbid = dbid, begun = self.now,
                        word = what and M.word(what) or nil,
                        error = not what and "connect" or nil })
end

--- The write probe's outcome: why it failed, nil when it did not, false when nobody answered.
function Pair:writes(dbid, disk_error)
    local writable
    if disk_error ~= false then
        writable = disk_error == nil
    end
    return self:event({ kind = "disk", dbid = dbid, writable = writable,
                        disk_error = disk_error or nil })
end

--- Both instances are seen and their hosts heard: the pair is known.
function Pair:settle(primary, mirror)
    self:sees(M.PRIMARY, "ok", primary)
    self:sees(M.MIRROR, "ok", mirror)
    self:says(M.PRIMARY, { standby_signal = false })
    self:says(M.MIRROR, {})
    self.log = {}
    return self
end

--- An action came to an end.
function Pair:result(key, ok, more)
    local event = { kind = "result", key = key, ok = ok }
    for _, action in ipairs(self.log) do
        if action.key == key then
            event.name, event.fn, event.dbid, event.role_epoch = action.name or action.kind,
                action.fn,
                action.dbid, action.role_epoch
        end
    end
    return self:event(copy(event, more))
end

--- What the catalog does with a transition that it accepts, and its result.
function Pair:recorded(fn)
    local input = self.input
    local primary, mirror = snapshot(input.primary), snapshot(input.mirror)
    input.pair = snapshot(input.pair)
    input.pair.epoch = input.pair.epoch + 1
    if fn == "promote" then
        primary, mirror = mirror, primary
        primary.role, mirror.role = "p", "m"
        mirror.status = "d"
        input.pair.role_epoch = input.pair.epoch
    elseif fn == "mirror_down" then
        mirror.status = "d"
    elseif fn == "mirror_up" or fn == "in_sync" then
        mirror.status = "u"
    end
    primary.mode = fn == "in_sync" and "s" or "n"
    mirror.mode, primary.status = primary.mode, "u"
    input.primary, input.mirror = primary, mirror
    return self:result(fn == "in_sync" and "arm" or "catalog", true)
end

local function matches(action, what, dbid)
    return (action.kind == what or action.op == what or action.fn == what or action.what == what)
        and (dbid == nil or action.dbid == dbid)
end

--- The last action of this kind, order, transition or journal entry since the log was emptied.
function Pair:asked(what, dbid)
    for i = #self.log, 1, -1 do
        if matches(self.log[i], what, dbid) then
            return self.log[i]
        end
    end
end

--- How many journal entries of this kind were asked for since the log was emptied.
function Pair:count(what)
    local found = 0
    for _, action in ipairs(self.log) do
        found = found + (action.what == what and 1 or 0)
    end
    return found
end

--- Orders and transitions asked for, in their order, as texts.
function Pair:story()
    local story = {}
    for _, action in ipairs(self.log) do
        if action.kind == "record" then
            table.insert(story, action.fn)
        elseif action.kind == "order" then
            table.insert(story, ("%s %d"):format(action.op, action.dbid))
        elseif action.kind == "arm" or action.kind == "take_over" then
            table.insert(story, action.kind)
        end
    end
    return story
end

--- The state the pair was in after the last event.
function Pair:state()
    return self.memory.state
end

return M
