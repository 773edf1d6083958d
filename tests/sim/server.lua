--- A model of a PostgreSQL server, with the traps of the real one: the flag by which commits wait
--- is set by the checkpointer, late when it is inside a checkpoint; setting nobody to wait for
--- acknowledges everything that waits; a backend outlives its postmaster; a postmaster that hangs
--- goes on serving the sessions it has; what was copied and not flushed is gone with the power.
---
--- A record of WAL is a table of its own; two servers have the same record when they have the same
--- table. A position is how many records there are before it. What is written is flushed, but for
--- what a copy writes.
local copy = require("tests.lib.copy")
local process = require("tests.sim.process")
local receiver = require("tests.sim.receiver")

local M = {}

local Server = {}
Server.__index = Server

--- A server that does not run.
---@param world table {clock, dice, promise}
---@param dbid integer
---@return table server
function M.new(world, dbid)
    return setmetatable({
        world = world, dbid = dbid, up = false, standby = false, wal = {}, timeline = 1,
        history = {}, names = "", stream_name = "", slots = {}, watchers = {}, senders = {},
        epoch = { valid = true, epoch = 1, step = 0, order = "adopt", marked = false, sysid = "7",
                  barred = 0 },
        aside = false, orphans = {}, copies = 0, known_names = { world:bare_name(dbid) },
        state = "shut down",
    }, Server)
end

local function chance(self, limit)
    return self.world.dice:number(limit)
end

local function tell(self, what)
    self.world:trace("dbid %d %s", self.dbid, what)
end

function Server:running()
    return self.up and not self.life.stopped
end

--- Whether a new session can be had: not from a postmaster that hangs.
function Server:accepts()
    return self:running() and not self.recovering and not self.deaf and not self.stopping
end

--- Whether a client's session writes here.
function Server:writable()
    return self:running() and not self.recovering and not self.stopping and not self.in_recovery
end

--- How far it has replayed.
---@return integer
function Server:replayed()
    return self.paused and math.min(self.paused_at, #self.wal) or #self.wal
end

--- Where its last checkpoint lies, as its pg_control has it: of a standby, the last one of its
--- primary that it has replayed.
---@return integer? position
---@return table? record
function Server:checkpoint()
    for i = self:replayed(), 1, -1 do
        if self.wal[i].checkpoint then
            return i, self.wal[i]
        end
    end
end

--- pg_wal_replay_pause(), pg_wal_replay_resume().
function Server:pause()
    tell(self, "does not replay any more")
    self.paused, self.paused_at = true, #self.wal
end

function Server:resume()
    self.paused = false
end

--- Tells who holds a session with it, whenever it ends.
function Server:watch(of, fn)
    table.insert(self.watchers, { of = of, fn = fn })
end

local function drop_sessions(self)
    for _, watcher in ipairs(self.watchers) do
        watcher.of:after(1 + chance(self, 4), watcher.fn)
    end
end

-- What a process of an earlier server writes into a directory that was copied since: a page of its
-- own over one of the copy's.
local function overwrite(self, of)
    if of.copies ~= self.copies and #self.wal > 0 then
        self.wal[#self.wal] = { stray = true }
    end
end

-- Minors before 15.13 and its like let commits through until the checkpointer has started up.
local function flag_at_start(self)
    if self.world.version >= 150013 then
        self.flag = self.names ~= ""
        return
    end
    self.flag = false
    self.life:after(20 + chance(self, 3000), function()
        self.flag = self.names ~= ""
    end)
end

--- Starts it on what lies in its directory. A process that is left of an earlier one holds the
--- shared memory: PostgreSQL refuses then.
---@param listen boolean whether clients reach it
function Server:start(listen)
    if self.up or self.aside or next(self.orphans) then
        return false
    end
    tell(self, (self.standby and "starts as a standby" or "starts as a primary")
        .. (listen and "" or " and listens nowhere"))
    self.life = process.new(self.world, "server " .. self.dbid)
    self.life.copies = self.copies
    self.up, self.listen, self.in_recovery, self.recovering = true, listen, self.standby, true
    self.live_names = self.names
    self.waiting, self.senders, self.link = {}, {}, nil
    self.deaf, self.paused, self.rereading, self.stopping = false, false, false, false
    self.shutdown_end, self.excused = nil, nil
    flag_at_start(self)
    self.state = self.standby and "in archive recovery" or "in production"
    self.life:after(20 + chance(self, 300), function()
        self.recovering = false
        if not self.in_recovery then
            table.insert(self.wal, { checkpoint = true })
        end
        receiver.stream(self)
    end)
    return true
end

--- Somebody starts it with what lies in its files: with those it listens nowhere (rule 4).
function Server:started_by_somebody()
    return self:start(not self.world.rules.listen)
end

local function die(self)
    if not self.up then
        return
    end
    tell(self, "ends")
    self.up, self.recovering, self.link = false, false, nil
    self.life:kill()
    overwrite(self, self.life)
    drop_sessions(self)
end

--- Ends all of it at once.
function Server:kill()
    for orphan in pairs(self.orphans) do
        orphan:kill()
    end
    self.orphans = {}
    die(self)
end

-- A backend that has lost its postmaster goes on in the session it has. A commit of its own that
-- waits is never acknowledged.
local function live_on(self, orphan)
    orphan:after(20 + chance(self, 200), function()
        overwrite(self, orphan)
        if orphan.copies == self.copies then
            table.insert(self.wal, { on = self.dbid })
        end
        if orphan.listen then
            self.world.promise:read(self)
        end
        live_on(self, orphan)
    end)
end

--- SIGKILL of the postmaster alone.
function Server:kill_postmaster()
    if not self.up or not self:writable() then
        return die(self)
    end
    local orphan = process.new(self.world, "a backend of " .. self.dbid)
    tell(self, "leaves a backend behind")
    orphan.copies, orphan.listen = self.life.copies, self.listen
    die(self)
    self.orphans[orphan] = true
    live_on(self, orphan)
    self.world.clock:after(chance(self, 30000), function()
        orphan:kill()
        self.orphans[orphan] = nil
    end)
end

-- The end of a shutdown waits for the walsender, for a while.
local function shut_down(self, stop_at, until_ms)
    local other = self.world.servers[5 - self.dbid]
    local arrived = other.link and other.link.source == self and #other.wal >= stop_at
    if arrived or self.in_recovery or self.world.clock.now > until_ms then
        die(self)
        self.shutdown_end = not self.in_recovery and stop_at or nil
        self.state = self.in_recovery and "shut down in recovery" or "shut down"
        return
    end
    self.life:after(2, function()
        shut_down(self, stop_at, until_ms)
    end)
end

--- SIGINT: clients go first, and what waits then is never acknowledged. The walsender stays for the
--- end.
function Server:shut_down()
    if self.stopping or self.deaf then
        return
    end
    tell(self, "shuts down")
    self.stopping, self.waiting = true, {}
    if not self.in_recovery then
        table.insert(self.wal, { checkpoint = true, shutdown = true })
    end
    local stop_at, until_ms = #self.wal, self.world.clock.now + 2000
    self.life:after(1 + chance(self, 20), function()
        shut_down(self, stop_at, until_ms)
    end)
end

--- The power of its host fails, and the agents there end as well: what was copied here and not
--- flushed is not there afterwards.
function Server:power_off()
    tell(self, "loses its power")
    for _, host in pairs(self.world.hosts) do
        if host.server == self then
            host:kill()
        end
    end
    self:kill()
    if self.unflushed then
        self:tear()
    end
end

--- Half of what lies in its directory is replaced by something else.
function Server:tear()
    for i = math.max(1, math.floor(#self.wal / 2)), #self.wal do
        self.wal[i] = { torn = true }
    end
end

--- SIGSTOP and SIGCONT of the whole tree.
function Server:freeze()
    if self.up then
        tell(self, "is frozen")
        self.life:stop()
    end
end

function Server:thaw()
    self.deaf = false
    if self.up and self.life.stopped then
        tell(self, "goes on")
        self.thawed_at = self.world.clock.now
        self.life:continue()
    end
end

local function released(self, entry)
    if not self.flag then
        return true
    end
    for link in pairs(self.senders) do
        if (link.flushed or -1) >= entry.at
            and (link.name == self.live_names or self.live_names == "*") then
            return true
        end
    end
    return false
end

--- Acknowledges what need not wait any more.
function Server:settle()
    if not self.waiting[1] then
        return
    end
    local left = {}
    for _, entry in ipairs(self.waiting) do
        if released(self, entry) then
            entry.done()
        else
            table.insert(left, entry)
        end
    end
    self.waiting = left
end

-- The checkpointer rereads settings one time after the other, and inside of a checkpoint when that
-- is through; between the reading and the flag it may lose the processor.
local function reread(self)
    self.reread_asked = true
    if self.rereading then
        return
    end
    self.rereading = true
    local late = chance(self, 1) < 0.1
    self.life:after(late and 100 + chance(self, 3000) or 1 + chance(self, 10), function()
        self.reread_asked = false
        local names = self.names
        self.life:after(chance(self, 1) < 0.05 and chance(self, 300) or 0.1, function()
            self.flag, self.rereading = names ~= "", false
            self:settle()
            if self.reread_asked then
                reread(self)
            end
        end)
    end)
end

--- ALTER SYSTEM SET synchronous_standby_names and a reload.
---@param names string
function Server:set_names(names)
    tell(self, names == "" and "shall wait for nobody" or "shall wait for " .. names)
    self.names = names
    self.life:after(1 + chance(self, 3), function()
        self.live_names = self.names
        self:settle()
    end)
    reread(self)
end

--- Somebody's own synchronous_standby_names on a mirror, which has nobody to wait for.
---@param names string
function Server:own_names(names)
    if self.in_recovery and not names:find("^mr_") then
        self.names, self.live_names, self.flag = names, names, names ~= ""
    end
end

--- Writes a record, and has done() called when its commit may be acknowledged.
---@param record table
---@param done fun()
function Server:commit(record, done)
    table.insert(self.wal, record)
    record.on = self.dbid
    table.insert(self.waiting, { at = #self.wal, done = done })
    self:settle()
end

--- Ends its recovery: from here on it writes a history of its own.
function Server:promote()
    tell(self, "is promoted")
    table.insert(self.wal, { checkpoint = true, promotion = true })
    local history = copy(self.history)
    table.insert(history, { timeline = self.timeline, at = #self.wal - 1 })
    self.history, self.timeline = history, self.timeline + 1
    self.in_recovery, self.standby, self.link = false, false, nil
    self.state = "in production"
    self.switch = #self.wal - 1
    self.world.promise:promoted(self)
    if self.world.activated then
        self.world:activated(self.dbid)
    end
    self.world:moment("promoted")
end

--- The receiver begins anew under another name.
function Server:rename(name)
    table.insert(self.known_names, self.stream_name)
    self.stream_name = name
    self.link = nil
    self.life:after(1 + chance(self, 20), function()
        receiver.stream(self)
    end)
end

--- Whether it has a record.
---@param record table
---@return boolean
function Server:has(record)
    for i = #self.wal, 1, -1 do
        if self.wal[i] == record then
            return true
        end
    end
    return false
end

return M
