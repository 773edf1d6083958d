--- A model of a PostgreSQL server and of its streaming replication, with the traps of the real one:
--- the flag by which commits wait is set by the checkpointer, late when it is inside a checkpoint;
--- setting nobody to wait for acknowledges everything that waits; two histories with one number
--- stream into each other without a word.
---
--- A record of WAL is a table of its own; two servers have the same record when they have the same
--- table. A position is how many records there are before it. What is written is flushed.
local copy = require("tests.lib.copy")
local process = require("tests.sim.process")

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
        history = {}, names = "", stream_name = "", slots = {}, watchers = {},
        epoch = { valid = true, epoch = 1, step = 0, order = "adopt", marked = false, sysid = "7" },
        aside = false,
    }, Server)
end

local function chance(self, limit)
    return self.world.dice:number(limit)
end

function Server:running()
    return self.up and not self.life.stopped
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

--- Starts it on what lies in its directory.
---@param listen boolean whether clients reach it
function Server:start(listen)
    if self.up or self.aside then
        return false
    end
    self.life = process.new(self.world, "server " .. self.dbid)
    self.up, self.listen, self.in_recovery, self.recovering = true, listen, self.standby, true
    self.live_names, self.flag = self.names, self.names ~= ""
    self.waiting, self.reports, self.link = {}, {}, nil
    self.life:after(20 + chance(self, 300), function()
        self.recovering = false
        self:stream()
    end)
    return true
end

--- Ends all of it at once.
function Server:kill()
    if not self.up then
        return
    end
    self.up, self.recovering, self.link = false, false, nil
    self.life:kill()
    drop_sessions(self)
end

--- SIGSTOP and SIGCONT of the whole tree.
function Server:freeze()
    if self.up then
        self.life:stop()
    end
end

function Server:thaw()
    if self.up then
        self.life:continue()
    end
end

-- Whether history, as PostgreSQL compares it, lets this one receive from that one: by numbers.
local function may_follow(self, source)
    if not self.world.rules.history then
        return true
    end
    if self.timeline == source.timeline then
        return #self.wal <= #source.wal
    end
    for _, switch in ipairs(source.history) do
        if switch.timeline == self.timeline then
            return #self.wal <= switch.at
        end
    end
    return false
end

local function released(self, entry)
    if not self.flag then
        return true
    end
    local report = self.reports[self.live_names]
    return report ~= nil and report >= entry.at
end

--- Acknowledges what need not wait any more.
function Server:settle()
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

local function connected(self, link)
    local source = link.source
    return self.up and self.link == link and source.up and source.life == link.life
        and self.in_recovery and not source.in_recovery and not self.world.cut
end

local function pump(self, link)
    if not connected(self, link) then
        if self.link == link then
            self.link = nil
            self:stream()
        end
        return
    end
    local source = link.source
    if not source.life.stopped and not source.recovering then
        for i = #self.wal + 1, #source.wal do
            self.wal[i] = source.wal[i]
        end
        self.timeline = math.max(self.timeline, source.timeline)
        self.history = source.history
        local flushed, name = #self.wal, link.name
        source.life:after(1 + chance(self, 3), function()
            if link.source.link_of == link then
                source.reports[name] = flushed
                source:settle()
            end
        end)
    end
    self.life:after(2 + chance(self, self.world.slow and 400 or 10), function()
        pump(self, link)
    end)
end

--- A standby tries to receive from the other one, again and again.
function Server:stream()
    local source = self.world.servers[5 - self.dbid]
    if not self.up or not self.in_recovery or self.recovering or self.link then
        return
    end
    if source:running() and not source.recovering and not source.in_recovery
        and not self.world.cut and may_follow(self, source) and source.slots[self.dbid] then
        self.link = { source = source, life = source.life, name = self.stream_name }
        source.link_of = self.link
        pump(self, self.link)
    else
        self.life:after(100 + chance(self, 100), function()
            self:stream()
        end)
    end
end

--- The receiver begins anew under another name.
function Server:rename(name)
    self.stream_name = name
    self.link = nil
    self.life:after(1 + chance(self, 20), function()
        self:stream()
    end)
end

-- Inside of a checkpoint the checkpointer rereads settings when that is through.
local function reread_ms(self)
    return chance(self, 1) < 0.1 and 100 + chance(self, 3000) or 1 + chance(self, 10)
end

--- ALTER SYSTEM SET synchronous_standby_names and a reload.
---@param names string
function Server:set_names(names)
    self.names = names
    self.life:after(1 + chance(self, 3), function()
        self.live_names = self.names
        self:settle()
    end)
    self.life:after(reread_ms(self), function()
        self.flag = self.names ~= ""
        self:settle()
    end)
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
    table.insert(self.wal, { promotion = true })
    local history = copy(self.history)
    table.insert(history, { timeline = self.timeline, at = #self.wal - 1 })
    self.history, self.timeline = history, self.timeline + 1
    self.in_recovery, self.standby, self.link = false, false, nil
    self.switch = #self.wal - 1
    self.world.promise:promoted(self)
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
