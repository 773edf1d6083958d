--- The promise, looked at whenever a server acknowledges, is read, or is promoted: what a client
--- saw acknowledged is on every server that acknowledges or serves anything after it, what the
--- catalog calls in sync waits for its mirror, and what is promoted can serve.
local M = {}

local Promise = {}
Promise.__index = Promise

---@param world table {clock}
---@return table promise {acknowledged: table[], broken: string?}
function M.new(world)
    return setmetatable({ world = world, acknowledged = {} }, Promise)
end

local function break_it(self, rule, text, ...)
    if not self.broken then
        self.broken = ("%d ms: %s: %s"):format(self.world.clock.now, rule, text:format(...))
        self.world:trace("BROKEN: %s", self.broken)
    end
end

--- A server lets a commit return.
---@param server table
---@param record table
function Promise:released(server, record)
    local last = self.acknowledged[#self.acknowledged]
    local catalog, mirror = self.world.catalog, self.world.servers[5 - server.dbid]
    local row = catalog.rows[server.dbid]
    if row.role == "p" and row.mode == "s" and not catalog.pair.unconfirmed
        and not mirror:has(record) then
        break_it(self, "rule 1",
            "the catalog says s, and dbid %d acknowledges %d, which its mirror lacks",
            server.dbid, record.id)
    end
    if last and not server:has(last) then
        break_it(self, "the promise",
            "dbid %d acknowledges and does not have %d, which dbid %d acknowledged",
            server.dbid, last.id, last.by)
    end
end

--- A client saw a record's commit acknowledged.
---@param server table
---@param record table
function Promise:acknowledge(server, record)
    record.by = server.dbid
    table.insert(self.acknowledged, record)
    if self.newest and not self.newest:has(record) then
        break_it(self, "the promise",
            "dbid %d acknowledged %d, which dbid %d, promoted since, does not have",
            server.dbid, record.id, self.newest.dbid)
    end
end

--- A client reads what a server has as a primary.
---@param server table
function Promise:read(server)
    local last = self.acknowledged[#self.acknowledged]
    if last and not server.excused and not server:has(last) then
        break_it(self, "rule 3", "dbid %d is read and does not have %d, which dbid %d acknowledged",
            server.dbid, last.id, last.by)
    end
end

-- How long a host that has said nothing is left out.
local SILENCE_MS = 30000
-- How long a mirror must have heard its primary for that to be known to everybody.
local HEARD_MS = 8000

--- The catalog has changed the roles of a pair.
---@param old table its primary so far
---@param new table
function Promise:succeeded(old, new)
    local link, world = new.link, self.world
    local since = math.max(link and link.since or 0, world.cut_at or 0, old.thawed_at or 0,
        new.thawed_at or 0)
    if link and link.life == old.life and old:running() and not world.cut
        and world.clock.now - since > HEARD_MS then
        break_it(self, "rule 3", "dbid %d takes the place of dbid %d, which it still hears",
            new.dbid, old.dbid)
    end
end

--- A pair is promoted or its mirror recorded as down by the watcher, though that is paused.
function Promise:paused()
    break_it(self, "rule 6", "the watcher goes on with a pair whose failover is paused")
end

--- A server was promoted. Its predecessor is stopped by then, unless its host says nothing: then it
--- may be read for a while.
---@param server table
function Promise:promoted(server)
    local old = self.world.servers[5 - server.dbid]
    self.newest = server
    old.excused = old.silent_at ~= nil and self.world.clock.now - old.silent_at < SILENCE_MS
    if server.paused or server.names ~= "" then
        break_it(self, "rule 1", "dbid %d is promoted and cannot serve: %s", server.dbid,
            server.paused and "its replay is paused" or "its own writes hang")
    end
    self:check(server, "is promoted and")
end

--- The catalog says from now on that commits wait for this mirror.
---@param mirror table
function Promise:in_sync(mirror)
    self:check(mirror, "is recorded as in sync and")
end

--- Everything that was acknowledged is on this server.
---@param server table
---@param how string
function Promise:check(server, how)
    local here = {}
    for _, record in ipairs(server.wal) do
        here[record] = true
    end
    for _, record in ipairs(self.acknowledged) do
        if not here[record] then
            break_it(self, "the promise", "dbid %d %s does not have %d, which dbid %d acknowledged",
                server.dbid, how, record.id, record.by)
        end
    end
end

return M
