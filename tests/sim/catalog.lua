--- A model of the catalog: the rows of one pair, epochs, leases, and the transitions with what they
--- refuse, as scripts/lib/catalog/*.sql has them. Statements take time, and at times the answer or
--- the session is lost.
local activation = require("tests.sim.activation")
local copy = require("tests.lib.copy")
local real = require("moonrise")

local M = {}

local Catalog = {}
Catalog.__index = Catalog

local IDLE_MS = 5000

--- The catalog of a pair: dbid 2 is the primary, 3 its mirror, not in sync.
---@param world table
---@return table catalog
function M.new(world)
    local function row(dbid, role)
        return { dbid = dbid, content = world.content, role = role, preferred_role = role,
                 mode = "n", status = "u", port = 6000 + dbid, hostname = "localhost",
                 address = "localhost", datadir = "/d" .. dbid }
    end
    return setmetatable({
        world = world, epoch = 10, tokens = 0, journal = {}, promoted = {}, kept = {}, life = 1,
        rows = { [2] = row(2, "p"), [3] = row(3, "m") },
        pair = { content = world.content, epoch = 10, reserved = 0, role_epoch = 0, timeline = 1 },
    }, Catalog)
end

local function refuse(code, sqlstate, text, ...)
    error({ code = code, sqlstate = sqlstate, text = text:format(...) }, 0)
end

function Catalog:instance(role)
    for _, row in pairs(self.rows) do
        if row.role == role then
            return row
        end
    end
end

local function next_epoch(self)
    self.epoch = self.epoch + 1
    self.pair.epoch = self.epoch
    return self.epoch
end

local function note(self, kind, data)
    data.kind, data.at = kind, self.world.clock.now
    self.world:trace("the catalog records %s", kind)
    table.insert(self.journal, data)
    self.world:moment(kind)
end

local function set_pair(self, mode, status)
    for _, row in pairs(self.rows) do
        row.mode = mode
        row.status = row.role == "m" and status or row.status
    end
end

local function swap(self)
    local primary, mirror, epoch = self:instance("p"), self:instance("m"), next_epoch(self)
    primary.role, primary.mode, primary.status = "m", "n", "d"
    mirror.role, mirror.mode, mirror.status = "p", "n", "u"
    self.pair.role_epoch, self.pair.armed_name = epoch, nil
    return epoch
end

-- A holder that asks nothing for so long loses its session.
function Catalog:expire()
    local holder = self.holder
    if holder and self.world.clock.now - holder.used > IDLE_MS then
        holder.open, self.holder = false, nil
    end
end

local function authorise_caller(self, session, token, seen)
    local lease = self.lease
    local unexpired = lease and lease.expires > self.world.clock.now
    if seen and seen ~= self.pair.epoch then
        refuse("busy", "MR003", "the pair has changed since epoch %d", seen)
    elseif token then
        if not lease or lease.token ~= token then
            refuse("busy", "MR002", "the lease %d is not held any more", token)
        elseif not unexpired then
            refuse("busy", "MR002", "the lease %d has expired", token)
        end
    elseif self.holder ~= session and self.world.rules.lease then
        refuse("busy", "MR002", "the caller does not hold the watcher's lease")
    elseif unexpired and self.world.rules.content_lease then
        refuse("busy", "MR002", "content 0 is in the hands of %s", lease.holder)
    end
end

local function authorise(self, session, token, seen)
    authorise_caller(self, session, token, seen)
    if self.pair.unconfirmed and self.world.rules.unconfirmed then
        refuse("refused", "MR001", "content 0 has not confirmed its epochs")
    end
end

-- The coordinator's standby is out only with a record of that on a majority of the hosts.
local function check_majority(self, facts)
    local majority = facts and facts.majority or {}
    if self.pair.content >= 0 or not self.world.rules.majority then
        return
    elseif #(majority.hosts or {}) < 2 then
        refuse("refused", "MR001", "the coordinator is released only with a majority's record")
    elseif majority.epoch ~= self.pair.epoch or self.pair.reserved ~= self.pair.epoch then
        refuse("busy", "MR003", "the hosts have recorded another epoch")
    end
end

-- The watcher promotes and releases nothing while somebody has paused that.
local function check_pause(self, token)
    if self.paused and not token then
        if self.world.rules.pause then
            refuse("refused", "MR001", "failover of content 0 is paused")
        end
        self.world.promise:paused()
    end
end

--- The standby of its coordinator takes the place of that one.
---@param missing integer how many transitions it lacks at most
function Catalog:activate(missing)
    activation.activate(self, missing)
end

--- Whether a session goes on; outside of the coordinator's own life the server that it is with is
--- none of this world.
---@param session table {life, server_life}
---@return boolean
function Catalog:reached(session)
    local server = self.server
    return session.life == self.life and (server == nil or (server.life == session.server_life
        and server:running() and not self.world:apart(server.dbid)))
end

--- What was changed is in its server's WAL; that commit waits for nobody.
function Catalog:write()
    local lease = self.lease and self.lease.token
    if self.server and (self.written ~= self.epoch or self.written_lease ~= lease) then
        self.written, self.written_lease = self.epoch, lease
        table.insert(self.server.wal, { catalog = activation.state(self) })
    end
end

--- This server was a standby, and is the coordinator from now on.
---@param dbid integer
---@param epoch integer the highest that a host has seen
function Catalog:take_over(dbid, epoch)
    self.epoch, self.lease = math.max(self.epoch, epoch), nil
    if self:instance("m").dbid == dbid then
        self.promoted[swap(self)] = true
        self.pair.timeline = self.server.timeline
    end
    note(self, "activated", {})
end

--- Begins a pause, or ends it.
---@param paused boolean
function Catalog:pause(paused)
    self.epoch, self.paused = self.epoch + 1, paused
end

-- What the transitions are given, in the order of lib/catalog/*.sql.
local GIVEN = {
    watcher_lease_take = { "holder" }, watcher_pid = {}, replication_sample_set = { "rows" },
    lease_take = { "content", "holder", "intent", "step" }, lease_step = { "token", "step" },
    lease_inherit = { "token", "holder", "ttl", "gone" }, lease_drop = { "token" },
    epoch_reserve = { "token", "content", "reason", "seen" }, epoch_seen = { "epoch" },
    mirror_down = { "token", "content", "reason", "facts", "seen" },
    mirror_up = { "token", "content", "reason", "seen" },
    out_of_sync = { "token", "content", "reason", "seen", "facts" },
    in_sync = { "token", "content", "arm_epoch", "evidence" },
    promote = { "token", "content", "dbid", "decision", "accept_loss", "seen" },
    hand_over = { "token", "content", "evidence" },
    promoted = { "token", "content", "epoch", "timeline", "switch_lsn" },
    timeline_seen = { "token", "content", "timeline" },
    bar_reserve = { "token", "content", "seen" },
    pair_confirm = { "token", "content", "words", "accept_loss" },
}

local calls = {}

function calls.watcher_lease_take(self, session)
    if self.holder and self.holder ~= session and self.world.rules.lease then
        return nil
    end
    self.holder = session
    self.epoch = self.epoch + 1
    return self.epoch
end

function calls.watcher_pid(self)
    return self.holder and 1 or nil
end

function calls.lease_take(self, _, given)
    local lease, now = self.lease, self.world.clock.now
    if lease and lease.expires > now and self.world.rules.content_lease then
        refuse("busy", "MR003", "content 0 is in the hands of %s", lease.holder)
    end
    self.tokens = self.tokens + 1
    self.lease = { token = self.tokens, content = given.content, holder = given.holder,
                   intent = given.intent, step = given.step, expires = now + 30000 }
    return self.tokens
end

local function held(self, token)
    local lease = self.lease
    if not lease or lease.token ~= token then
        refuse("busy", "MR002", "the lease %d is not held any more", token)
    end
    return lease
end

function calls.lease_step(self, _, given)
    local lease = held(self, given.token)
    if lease.expires <= self.world.clock.now then
        refuse("busy", "MR002", "the lease %d has expired", given.token)
    end
    lease.expires = self.world.clock.now + 30000
    lease.step = lease.step == "handed" and "handed" or given.step
    return true
end

function calls.lease_inherit(self, _, given)
    local lease = held(self, given.token)
    if not given.gone and lease.expires > self.world.clock.now then
        refuse("busy", "MR003", "the lease %d was renewed", given.token)
    end
    self.tokens = self.tokens + 1
    lease.token, lease.holder = self.tokens, given.holder
    lease.expires = self.world.clock.now + 30000
    return self.tokens
end

function calls.lease_drop(self, _, given)
    if self.lease and self.lease.token == given.token then
        self.lease = nil
        return true
    end
    return false
end

function calls.epoch_reserve(self, session, given)
    authorise(self, session, given.token, given.seen)
    self.pair.reserved = next_epoch(self)
    return self.pair.reserved
end

function calls.epoch_seen(self, _, given)
    self.epoch = math.max(self.epoch, given.epoch)
    return self.epoch
end

function calls.mirror_down(self, session, given)
    authorise(self, session, given.token, given.seen)
    local mirror = self:instance("m")
    if mirror.status == "d" and mirror.mode == "n" then
        return self.pair.epoch
    end
    check_pause(self, given.token)
    check_majority(self, given.facts)
    self.pair.armed_name = nil
    set_pair(self, "n", "d")
    note(self, "mirror_down", {})
    return next_epoch(self)
end

function calls.mirror_up(self, session, given)
    authorise(self, session, given.token, given.seen)
    local mirror = self:instance("m")
    if mirror.status == "u" and mirror.mode == "n" then
        return self.pair.epoch
    end
    set_pair(self, "n", "u")
    note(self, "mirror_up", {})
    return next_epoch(self)
end

function calls.out_of_sync(self, session, given)
    authorise(self, session, given.token, given.seen)
    local mirror = self:instance("m")
    if mirror.mode == "n" then
        return self.pair.epoch
    end
    check_majority(self, given.facts)
    set_pair(self, "n", mirror.status)
    note(self, "out_of_sync", {})
    return next_epoch(self)
end

function calls.in_sync(self, session, given)
    local arm_epoch, evidence = given.arm_epoch, given.evidence
    authorise(self, session, given.token)
    local mirror = self:instance("m")
    local rules = self.world.rules
    if rules.arm_epoch and (self.pair.epoch ~= arm_epoch or self.pair.reserved ~= arm_epoch) then
        refuse("busy", "MR003", "armed with epoch %d, the last one is %d", arm_epoch,
            self.pair.epoch)
    elseif mirror.status ~= "u" then
        refuse("refused", "MR001", "the mirror is recorded as down")
    elseif evidence.timeline and evidence.timeline > self.pair.timeline then
        refuse("refused", "MR001", "somebody else promoted")
    elseif rules.names and evidence.name ~= ("%s_%d"):format(self.world:bare_name(mirror.dbid),
            arm_epoch)
        or real.lsn(evidence.flush_lsn) < real.lsn(evidence.insert_lsn) then
        refuse("refused", "MR001", "the evidence does not say so")
    end
    self.pair.armed_name, self.pair.armed_timeline = evidence.name, evidence.timeline
    set_pair(self, "s", "u")
    note(self, "in_sync", {})
    self.world.promise:in_sync(self.world.servers[mirror.dbid])
    return next_epoch(self)
end

function calls.promote(self, session, given)
    local dbid, decision = given.dbid, given.decision
    authorise(self, session, given.token, given.seen)
    local mirror = self:instance("m")
    if given.content < 0 then
        refuse("refused", "MR001", "a coordinator is not promoted like a segment")
    elseif mirror.dbid ~= dbid then
        refuse("busy", "MR003", "dbid %d is the primary already", dbid)
    end
    check_pause(self, given.token)
    if (mirror.mode ~= "s" or mirror.status ~= "u") and not given.accept_loss
        and self.world.rules.sync then
        refuse("refused", "MR001", "dbid %d is not in sync", dbid)
    end
    local servers = self.world.servers
    self.world.promise:succeeded(servers[self:instance("p").dbid], servers[dbid])
    local epoch = swap(self)
    note(self, "promote", { epoch = epoch, flush_lsn = decision and decision.flush_lsn })
    return epoch
end

function calls.hand_over(self, session, given)
    if not given.token then
        refuse("argument", "MR004", "hand_over needs the lease of the content")
    end
    authorise(self, session, given.token)
    local mirror, evidence = self:instance("m"), given.evidence
    if (mirror.mode ~= "s" or mirror.status ~= "u") and self.world.rules.sync then
        refuse("refused", "MR001", "not in sync: its roles are not handed over")
    elseif evidence.flush_lsn ~= evidence.shutdown_end then
        refuse("refused", "MR001", "the mirror was not seen where the primary ends")
    end
    local epoch = swap(self)
    self.lease.step = "handed"
    note(self, "hand_over", { epoch = epoch, shutdown_end = evidence.shutdown_end })
    return epoch
end

function calls.promoted(self, session, given)
    local epoch = given.epoch
    authorise(self, session, given.token)
    if epoch ~= self.pair.role_epoch then
        refuse("busy", "MR003", "the roles were not changed with epoch %s", tostring(epoch))
    end
    self.promoted[epoch] = true
    self.pair.timeline = math.max(self.pair.timeline, given.timeline)
    return epoch
end

function calls.timeline_seen(self, session, given)
    authorise(self, session, given.token)
    self.pair.timeline = math.max(self.pair.timeline, given.timeline)
    return given.timeline
end

function calls.bar_reserve(self, session, given)
    authorise_caller(self, session, given.token)
    local pair = self.pair
    if not pair.unconfirmed then
        refuse("busy", "MR003", "the pair is confirmed")
    elseif pair.reserved ~= pair.epoch or given.seen > pair.epoch then
        self.epoch = math.max(self.epoch, given.seen)
        pair.reserved = next_epoch(self)
    end
    return pair.reserved
end

function calls.pair_confirm(self, session, given)
    authorise_caller(self, session, given.token)
    if not self.pair.unconfirmed then
        return self.pair.epoch
    end
    local verdict = activation.verdict(self, given.words, given.accept_loss ~= nil)
    if not verdict then
        refuse("refused", "MR001", "it is not proven which instance is the primary")
    end
    local epoch = verdict == "switched" and swap(self) or next_epoch(self)
    if verdict == "kept" or (verdict == "same" and given.accept_loss) then
        set_pair(self, "n", self:instance("m").status)
    end
    self.pair.unconfirmed = nil
    note(self, verdict == "switched" and "promote" or "confirm", { epoch = epoch })
    return epoch
end

function calls.replication_sample_set()
    return true
end

--- Carries a call of a transition out.
---@param session table {used}
---@param fn string
---@param ... any
---@return any value
function Catalog:call(session, fn, ...)
    local given = {}
    for i, name in ipairs(GIVEN[fn] or error("the simulated catalog has no " .. fn)) do
        given[name] = (select(i, ...))
    end
    if given.content or given.token then
        activation.keep(self)
    end
    return calls[fn](self, session, given)
end

function Catalog:instances()
    return { copy(self.rows[2]), copy(self.rows[3]), self.other and copy(self.other) }
end

function Catalog:promoted_epoch()
    local highest
    for epoch in pairs(self.promoted) do
        highest = math.max(highest or 0, epoch)
    end
    return highest
end

--- What lib/lease.lua's one statement gives.
---@param session table
---@return string json
function Catalog:snapshot(session)
    local pair = copy(self.pair)
    pair.promoted_epoch = self:promoted_epoch()
    local lease = self.lease and copy(self.lease)
    if lease then
        lease.left_ms = lease.expires - self.world.clock.now
    end
    return real.json_encode({
        instances = self:instances(), pairs = { pair }, sysid = "7",
        leases = lease and { lease } or real.null,
        pauses = self.paused and { { content = pair.content, text = "by somebody",
                                     left_ms = 60000 } } or real.null,
        state = { name = "sim", epoch = self.epoch, state = "running", config = "none" },
        held = self.holder == session, version = self.world.version })
end

--- What the record of the last change of roles promised.
---@return table[] rows
function Catalog:promise()
    for i = #self.journal, 1, -1 do
        local row = self.journal[i]
        if (row.kind == "promote" or row.kind == "hand_over")
            and row.epoch == self.pair.role_epoch then
            return { { kind = row.kind, shutdown_end = row.shutdown_end,
                       flush_lsn = row.flush_lsn } }
        end
    end
    return {}
end

return M
