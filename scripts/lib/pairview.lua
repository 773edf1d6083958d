--- One look at a pair: its state, derived from the catalog's rows and what its instances really
--- are, and the facts that the policy and the guards are given. Pure. Nothing in it is remembered,
--- so a watcher that starts in the middle of something sees the same state as the one that died
--- there.
local conditions = require("lib.condition")
local guard = require("lib.guard")
local instance = require("lib.instance")
local pairfacts = require("lib.pairfacts")
local sight = require("lib.sight")

local M = {}

local View = {}
View.__index = View

-- Beyond doubt: the instance will not serve anybody soon.
local LOST = { stopped = true, gone = true, hung = true, unreachable = true, wrong_system = true }
-- A mirror is silent for a moment while its name is changed and it connects anew; one that was
-- started before its primary tries again every half second (lib/settings.lua).
local SETTLE_MS = 2000

local function lease_state(input)
    local lease = input.lease
    if input.stopped then
        return "leased"
    elseif lease then
        return lease.expires > input.now and not lease.gone and "leased" or "abandoned"
    end
end

local function promotion_pending(view)
    local role_epoch = view.pair.role_epoch or 0
    return role_epoch > 0 and (view.pair.promoted_epoch or 0) < role_epoch
end

--- Whether it was promoted after the last look at it: that look says nothing of its role.
function View:just_promoted()
    local memory = self.memory
    return self.pc == "wrong_role" and memory.promoted_at and self.p.ok_begun <= memory.promoted_at
        and memory.promoted_epoch == self.pair.role_epoch
end

--- A change of roles that was carried out, of which the catalog knows no timeline and position.
function View:promotion_untold()
    return self.pc == "fine" and promotion_pending(self)
        and self.memory.promoted_epoch ~= self.pair.role_epoch
end

--- A promotion of ours that the catalog does not know as carried out: somebody had the lease of the
--- content when the host said so, or the session was lost.
function View:promotion_unrecorded()
    return promotion_pending(self) and self.memory.promoted_epoch == self.pair.role_epoch
        and (self.memory.promoted or {}).timeline ~= nil
end

local function primary_state(view)
    if view.pc == "unseen" then
        return "unseen"
    elseif view.pc == "wrong_role" then
        return (promotion_pending(view) or view:just_promoted()) and "promoting" or "wrong_role"
    elseif view.pc == "fine" then
        return nil
    end
    local no_successor = view.mirror and (view.mirror.status == "d" or view.mode == "n"
        or LOST[view.mc] or view.mc == "wrong_role")
    return LOST[view.pc] and no_successor and "double_fault" or "primary_lost"
end

local function mirror_state(view)
    if not view.mirror then
        return "alone"
    elseif view.mirror.status == "d" then
        return "mirror_down"
    elseif view.mc ~= "fine" and view.mc ~= "unseen" then
        return "mirror_lost"
    elseif view:unstreamed_ms() > SETTLE_MS or view:stalled_ms() > SETTLE_MS then
        return "mirror_lost"
    end
    return view.mode == "s" and "in_sync" or "catching_up"
end

--- A look at a pair.
---@param memory table
---@param input table as fts.step's
---@return table view
function M.new(memory, input)
    local view = setmetatable({
        memory = memory, input = input, now = input.now, settings = input.settings,
        primary = input.primary, mirror = input.mirror, mode = input.primary.mode,
        pair = input.pair, p = memory.inst[input.primary.dbid],
        m = input.mirror and memory.inst[input.mirror.dbid],
    }, View)
    view.pc = conditions.of(view.p, "p")
    view.mc = view.m and conditions.of(view.m, "m") or "none"
    view.streaming = view.m ~= nil and view.pc == "fine" and sight.streams(view.p)
    view.state = lease_state(input) or (input.unconfirmed and "unconfirmed" or nil)
        or primary_state(view) or mirror_state(view)
    return view
end

--- Whether nothing of that key is under way, nor waits to be tried again.
function View:free(...)
    for i = 1, select("#", ...) do
        local key = select(i, ...)
        local retry = self.memory.retry[key]
        if self.memory.tasks[key] or (retry and retry.at > self.now) then
            return false
        end
    end
    return true
end

--- Whether it is for us to change something of this pair now.
function View:acting(...)
    return self.input.leader and self:free(...)
end

function View:stalled_ms()
    return self.memory.stalled_at and self.now - self.memory.stalled_at or 0
end

function View:unstreamed_ms()
    return self.memory.unstreamed_at and self.now - self.memory.unstreamed_at or 0
end

--- Replication that fails again and again counts as down; once it is, until it was quiet for a
--- window.
function View:flapping()
    local s, flaps = self.settings, self.memory.flaps
    return #flaps >= s.flap_count and self.now - flaps[s.flap_count] < s.flap_window_ms
end

--- Whether the primary was seen after the last thing that changed it, so that what it said is of
--- today.
function View:current()
    local memory, begun = self.memory, self.p.ok_begun
    return begun ~= nil and begun > (memory.changed_at or -1) and begun > (memory.acted_at or -1)
end

--- Whether the primary may still wait for its mirror: it said so, or it has not been asked since.
function View:still_armed()
    local names = self.p.seen and self.p.seen.sync_names
    if self:current() and names then
        return names:find("mr_", 1, true) ~= nil
    end
    return self.memory.maybe_armed == true
end

--- Whether the primary, asked since the last change, does not wait for the mirror it should wait
--- for: it waits for another name, or commits return before the mirror has them. Once it was seen
--- so, it has acknowledged what the mirror lacks, until the pair is armed anew under another name.
function View:disarmed()
    local seen, name = self.p.seen, self.pair.armed_name
    if name and self.memory.disarmed == name then
        return true
    elseif not self:current() or seen.in_recovery then
        -- What is in recovery commits nothing: it is a standby now, or somebody else who answers.
        return false
    end
    local level = seen.sync_commit
    if level and level ~= "on" and level ~= "remote_apply" then
        return true
    elseif not name or name == "" or not seen.sync_names then
        return false
    end
    -- Nothing but that name: beside another one it is no promise that this mirror has a commit.
    return seen.sync_names:gsub('"', "") ~= name
end

--- Whether some host has on record of the coordinator's pair what the catalog does not say, and the
--- pair is as the catalog says.
function View:hosts_are_ahead()
    return self.primary.content < 0 and self.input.hosts_ahead == true
        and (self.mode == "n" or (self:current() and not self:disarmed()))
end

--- The mirror by its files and its epoch was a primary, and has not been recovered since.
function View:behind_promotion()
    local word = self.m and self.m.word
    local epoch = word and word.epoch
    if not epoch or not epoch.valid then
        return false
    end
    return epoch.epoch <= (self.pair.role_epoch or 0) or word.standby_signal == false
end

--- Why the mirror's history is not its primary's, as far as its host has told; nil while a
--- promotion is under way of which the catalog does not know the timeline.
---@return string? reason
function View:astray()
    local word = self.m and self.m.word
    if not (word and word.control and word.control.newest_timeline) or promotion_pending(self) then
        return nil
    end
    return instance.other_history(word, self.pair)
end

--- Why the primary is an older copy of itself, whose mirror has what it lacks, as far as the hosts
--- have told.
---@return string? reason
function View:older_copy()
    local word = self.m and self.m.word
    return self.mode == "s" and word and instance.older_copy(word, self.pair) or nil
end

--- Whether the catalog's mirror is an old primary, or one of its own that runs, that nobody has
--- marked yet.
function View:must_mark()
    local word = self.m and self.m.word
    return word ~= nil and self.mirror.status == "d" and word.kind == "datadir"
        and not (word.epoch and word.epoch.marked) and not (word.control and word.control.aside)
        and (self:behind_promotion() or (self.m.rival or math.huge) <= (self.m.word_begun or 0)
            or not word.stopped and self:astray() ~= nil)
end

--- Whether the primary, by its host's word, is none that waits for its mirror: who restarts it has
--- it acknowledge commits alone.
function View:before_arming()
    local word = self.p.word
    return self.mode == "s" and word ~= nil
        and instance.before_arming(word.epoch, self.pair) ~= nil
end

--- Whether an instance runs that somebody else has started: from its files alone it listens nowhere
--- (rule 4), so no client reaches it, and no probe.
---@param who "primary"|"mirror"
---@return boolean
function View:stranger(who)
    local inst = who == "primary" and self.p or self.m
    local word = inst and inst.evidence ~= "ok" and inst.word or nil
    local post = word and word.postmaster or {}
    return post.alive and post.listen == ""
        and (post.status == "ready" or post.status == "standby")
        and (word.epoch or {}).valid == true and not word.epoch.marked
end

local function marked(inst)
    return inst and inst.word and inst.word.epoch and inst.word.epoch.marked
end

--- Whether the mirror may be serving clients as a primary of its own, promoted by somebody else:
--- until it is marked and gone the pair's primary is not released, or both would acknowledge.
function View:rival()
    if not self.m then
        return false
    end
    return self.mc == "wrong_role" or self:must_mark() or self:must_fence_old()
        or (self.m.rival and not (marked(self.m) and self.m.word.stopped)) or false
end

function View:must_fence_old()
    return marked(self.m) and self.mirror.status == "d" and not self.m.word.stopped
end

function View:must_set_aside()
    local word = self.m and self.m.word
    return marked(self.m) and self.mirror.status == "d" and word.stopped
        and word.control ~= nil and word.control.aside == false
        and (self.m.marked_at or -1) < self.m.word_at
end

-- A server that was killed is deaf a moment before its processes are gone: a live one would not
-- refuse. Its host is asked again at once, for this long.
local DYING_MS = 2000

local function dying(view, inst, condition)
    return condition == "hung" and view.now - inst.since < DYING_MS
        and (inst.evidence == "refused" or inst.evidence == "reset")
end

-- When an instance's host is asked next: at once for news, each second while it is in question, and
-- now and then in peace.
local function ask_at(view, inst, row, condition)
    local s, asked = view.settings, inst.asked_at
    if not asked then
        return view.now
    elseif inst.since and not (inst.word_begun and inst.word_begun >= inst.since) then
        return asked + 20
    elseif inst.since and ((inst.evidence_at or 0) > inst.word_begun
        or dying(view, inst, condition)) then
        return asked + 100
    elseif condition == "wrong_role" or view.state == "double_fault"
        or condition == "stopped" and inst.evidence == "ok" then
        -- Nobody serves: one that somebody starts listens nowhere, and only its host tells of it.
        -- Or somebody else answers in its place: it would not be seen there.
        return asked + s.ask_ms
    elseif inst.since and condition ~= "stopped" and row.status == "u" then
        return asked + s.ask_ms
    elseif inst == view.m and row.status == "u" and view:unstreamed_ms() > 0 then
        -- It is there and does not stream: what its primary lacks is known before it is let go.
        return asked + s.ask_ms
    elseif inst.word_error then
        -- Its host is away, or was when it was asked: one that was a primary is marked when it is
        -- back, and one that streams again is taken up.
        return asked + s.ask_ms
    end
    return asked + s.check_ms
end

--- When the host of one of the two is to be asked; nil while it is being asked, or is not there.
---@param who "primary"|"mirror"
---@return number?
function View:ask_at(who)
    local row = self[who]
    if row and self:free("ask:" .. row.dbid) then
        return who == "primary" and ask_at(self, self.p, row, self.pc)
            or ask_at(self, self.m, row, self.mc)
    end
end

function View:ask_primary_due()
    return self.now >= (self:ask_at("primary") or math.huge)
end

function View:ask_mirror_due()
    return self.now >= (self:ask_at("mirror") or math.huge)
end

local function disk_due(view, inst, condition)
    local age = inst and inst.disk_at and view.now - inst.disk_at
    return condition == "fine" and view:free("disk:" .. inst.dbid)
        and (age == nil or age >= view.settings.disk_ms)
end

function View:disk_primary_due()
    return disk_due(self, self.p, self.pc)
end

function View:disk_mirror_due()
    return disk_due(self, self.m, self.mc)
end

--- Whether what is known of an instance's disk has changed since it was told.
---@param who "primary"|"mirror"
---@return boolean
function View:disk_untold(who)
    local inst = who == "primary" and self.p or self.m
    return inst ~= nil and (inst.disk_error == nil) ~= (inst.disk_told == nil)
end

--- Whether what is known of an instance letting new sessions in has changed since it was told.
---@param who "primary"|"mirror"
---@return boolean
function View:refusal_untold(who)
    local inst = who == "primary" and self.p or self.m
    return inst ~= nil and (inst.refusal == nil) ~= (inst.refusal_told == nil)
end

--- Whether an instance serves, and its directory cannot be written or nobody else is let in.
---@return boolean
function View:ails()
    for _, inst in ipairs({ self.p, self.m }) do
        if inst.disk_error or inst.refusal then
            return true
        end
    end
    return false
end

--- What the facts are apart from how long they have lasted: when it changes, the policy is asked
--- again.
---@return string
function View:digest()
    local p, m = self.p, self.m
    return table.concat({
        self.state, self.mode, self.pc, p.evidence or "-", p.disk_error or "-", p.refusal or "-",
        self.mc, m and m.evidence or "-", m and m.disk_error or "-", m and m.refusal or "-",
        self.mirror and self.mirror.status or "-",
        tostring(self.streaming), tostring(self:flapping()), tostring(self:stalled_ms() > 0),
    }, " ")
end

--- Whether the mirror still got something from a primary that is silent to us.
---@return boolean
function View:heard()
    local at = self.memory.heard_at
    return at ~= nil and self.now - at < self.settings.heard_ms
end

--- The system identifier that the pair is expected to have, as far as it is known.
---@return string?
function View:expected_sysid()
    local word, mirror_word = self.p.word, self.m and self.m.word
    return self.p.sysid or (word and word.control and word.control.sysid)
        or (mirror_word and mirror_word.epoch and mirror_word.epoch.sysid) or nil
end

--- The system identifier that an instance is expected to have, as far as it is known.
---@param who "primary"|"mirror"
---@return string?
function View:sysid(who)
    local inst = who == "primary" and self.p or self.m
    local epoch = inst and inst.word and inst.word.epoch
    return self:expected_sysid() or (epoch and epoch.sysid) or nil
end

--- Asks a guard: true, or nil and the refusal.
---@param name string "promote", "fence", "record_out", "record_disarmed", "release" or "arm"
function View:allowed(name)
    return guard[name](pairfacts.guard(self))
end

--- Why the primary's mirror is not promoted; nil when nothing forbids it.
---@return {rule: integer, reason: string}?
function View:refusal()
    local _, no = self:allowed("promote")
    -- What a fence would mend forbids nothing; nobody out of reach is fenced.
    if no and no.rule == 3 and self.pc ~= "stopped" and self.pc ~= "unreachable" then
        _, no = self:allowed("fence")
    end
    return no
end

--- Whether the policy's last answer, for these very facts, is this action.
function View:answered(action)
    local answer = self.memory.answer
    -- While it is being asked what it said before was about other facts, or is out of date.
    return answer ~= nil and answer.action == action and self.memory.tasks.decide == nil
        and self.memory.digest == self:digest()
end

--- The policy's written acceptance of what a promotion would lose.
---@return string?
function View:accepted_loss()
    return self:answered("promote") and self.memory.answer.accept_loss or nil
end

--- Whether both hosts were asked since the fault began, so that what is left can be told.
---@return boolean
function View:surveyed()
    local m = self.m
    return m ~= nil and (m.word or m.word_error) ~= nil
        and (self.p.word or self.p.word_error) ~= nil
end

--- Whether the catalog was read after the evidence began. Before that it is not known whether
--- somebody works on the pair: a runbook takes the lease first, and stops a server then.
function View:looked()
    local at, doubted = self.input.looked_at, sight.doubted_at(self.memory)
    return at == nil or doubted == nil or at >= doubted
end

--- Whether it is time to ask the policy: the evidence changed, or the wait it asked for ran out.
function View:policy_due()
    local memory = self.memory
    if not self:free("decide") or not self:looked() or self.pc == "suspect"
        or self.mc == "suspect" then
        return false
    end
    local answer = memory.answer
    return memory.digest ~= self:digest() or not answer
        or (answer.until_ms ~= nil and answer.at + answer.until_ms <= self.now)
end

return M
