--- The promise, looked at whenever a server acknowledges and whenever one is promoted: what a
--- client saw acknowledged is on every server that acknowledges anything after it, and what the
--- catalog calls in sync waits for its mirror.
local M = {}

local Promise = {}
Promise.__index = Promise

---@param world table {clock}
---@return table promise {acknowledged: table[], broken: string?}
function M.new(world)
    return setmetatable({ world = world, acknowledged = {} }, Promise)
end

local function break_it(self, text, ...)
    self.broken = self.broken or ("%d ms: "):format(self.world.clock.now) .. text:format(...)
end

--- A server lets a commit return.
---@param server table
---@param record table
function Promise:released(server, record)
    local last = self.acknowledged[#self.acknowledged]
    local row = self.world.catalog.rows[server.dbid]
    if row.role == "p" and row.mode == "s" and not self.world.servers[5 - server.dbid]:has(record)
    then
        break_it(self, "the catalog says s, and dbid %d acknowledges %d, which its mirror lacks",
            server.dbid, record.id)
    end
    if last and not server:has(last) then
        break_it(self, "dbid %d acknowledges and does not have %d, which dbid %d acknowledged",
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
        break_it(self, "dbid %d acknowledged %d, which dbid %d, promoted since, does not have",
            server.dbid, record.id, self.newest.dbid)
    end
end

--- A server was promoted.
---@param server table
function Promise:promoted(server)
    self.newest = server
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
            break_it(self, "dbid %d %s does not have %d, which dbid %d acknowledged", server.dbid,
                how, record.id, record.by)
        end
    end
end

return M
