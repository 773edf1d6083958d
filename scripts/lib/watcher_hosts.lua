--- What the watcher knows of the hosts' records (lib/hosts_record.lua), and how they get what they
--- lack: with each look at the catalog a host that is behind is told, in a task of its own, so that
--- one that hangs keeps nobody waiting.
---
--- The hosts know more than the catalog when the standby was activated that lacked the last of it:
--- then the catalog is told, so that no epoch is given out twice.
local hosts_record = require("lib.hosts_record")
local mr = require("moonrise")

local M = {}

local RETRY_MS = 2000

---@class WatcherHosts
---@field hosts string[] of the last look at the catalog
---@field known table<string, table> by host: record, err and when (at) of its last answer; busy,
--- while it is asked; overtaken, by somebody who told it something newer; told, what is told of it
---@field told_epoch? integer what the catalog was told last
---@field ahead boolean some host has something else on record of the coordinator's pair, of an
--- epoch at which it cannot be told what the catalog says
local Hosts = {}
Hosts.__index = Hosts

--- Nothing is known yet.
---@param watcher Watcher
---@return WatcherHosts
function M.new(watcher)
    return setmetatable({ watcher = watcher, known = {}, hosts = {}, ahead = false }, Hosts)
end

--- Whether a majority of the hosts keeps its record.
---@return boolean
function Hosts:majority()
    local sound = 0
    for _, host in ipairs(self.hosts) do
        local known = self.known[host]
        sound = sound + (known and known.record and known.record.found and not known.err and 1 or 0)
    end
    return #self.hosts > 0 and sound >= hosts_record.majority(#self.hosts)
end

-- A host that is behind is no failure of the host.
local function fails(err)
    return err ~= nil and err.code ~= "stale" and err.code ~= "cancelled"
end

-- Told as it begins and as it ends.
local function tell(self, host, known, err)
    local text = fails(err) and tostring(err) or nil
    local about = "the record of the coordinator's pair"
    if (text == nil) ~= (known.told == nil) then
        self.watcher.journal:add("record", { text = text
            and ("host %s does not keep %s: %s"):format(host, about, text)
            or ("host %s keeps %s again"):format(host, about) })
    end
    known.told = text
end

-- What a host answered.
local function heard(self, host, record, err)
    local known = self.known[host]
    if not known then
        return
    end
    local before = self:majority()
    known.at, known.err = mr.clock(), fails(err) and err or nil
    known.record = record or known.record
    -- Somebody else has told it something newer.
    known.overtaken = err ~= nil and err.code == "stale"
    tell(self, host, known, err)
    if self:majority() ~= before then
        self.watcher.events:push({ kind = "hosts" })
    end
end

local function task(self, host, fn)
    local known = self.known[host]
    known.busy = true
    mr.spawn(function()
        local ok, record, err = pcall(fn)
        known.busy = false
        if not ok then
            record, err = nil, record
        end
        heard(self, host, record, err)
    end)
end

-- A record as an order. That of what the host has already changes nothing, and shows whether one
-- that has failed can carry it out.
local function order_of(record)
    return { epoch = record.epoch, mode = record.mode, coordinator = record.coordinator,
             standby = record.standby, catalog_epoch = record.catalog_epoch }
end

-- What the host is to be told; nil when it knows it.
local function due(record, wanted)
    local same = record.found and record.mode == wanted.mode
        and record.coordinator == wanted.coordinator and record.standby == wanted.standby
    if same and record.catalog_epoch >= wanted.catalog_epoch then
        return nil
    elseif same then
        -- Only the catalog's epoch is new: what is on record of the pair stays as it is.
        local grown = order_of(record)
        grown.catalog_epoch = wanted.catalog_epoch
        return grown
    end
    return wanted
end

-- Whether what the host has on record is newer than what it would be told.
local function is_ahead(record, wanted)
    return record.coordinator == wanted.coordinator and (record.epoch > wanted.epoch
        or (record.epoch == wanted.epoch and record.mode == "n" and wanted.mode == "s"))
end

-- A host that has another coordinator on record was away when the standby was activated, or we are
-- the one that was replaced: then a majority says so.
local function activates(self, record, wanted)
    if not record.found or record.coordinator == wanted.coordinator then
        return nil
    end
    local ours = 0
    for _, host in ipairs(self.hosts) do
        local known = self.known[host].record
        ours = ours + (known and known.coordinator == wanted.coordinator and 1 or 0)
    end
    return ours >= hosts_record.majority(#self.hosts) or nil
end

-- The highest epoch that a host has seen is the catalog's, too.
local function tell_catalog(self, record, epoch)
    local seen = record.found and math.max(record.epoch, record.catalog_epoch) or 0
    local cat = self.watcher.lease.cat
    if seen > epoch and cat and seen > (self.told_epoch or 0) then
        self.told_epoch = seen
        mr.spawn(cat.call, cat, "epoch_seen", seen)
    end
end

local function look_at(self, ctx, host, wanted)
    local known = self.known[host]
    if known.busy or (known.err and mr.clock() - known.at < RETRY_MS) then
        return
    elseif not known.record or known.overtaken then
        return task(self, host, function()
            return hosts_record.read(ctx, host)
        end)
    end
    tell_catalog(self, known.record, wanted.catalog_epoch)
    local record = due(known.record, wanted)
    if record == wanted and is_ahead(known.record, wanted) then
        self.ahead = true
        record = nil
    end
    record = record or (known.err and order_of(known.record))
    if record then
        local order = order_of(record)
        order.activates = activates(self, known.record, wanted)
        task(self, host, function()
            return hosts_record.write(ctx, host, order)
        end)
    end
end

--- Takes note of a look at the catalog, and tells the hosts that are behind. Only the holder of the
--- lease does.
---@param snapshot table lib/lease.lua's
function Hosts:look(snapshot)
    local w, pair = self.watcher, self.watcher.pairs[-1]
    self.hosts = hosts_record.hosts(snapshot.instances)
    for _, host in ipairs(self.hosts) do
        self.known[host] = self.known[host] or { at = 0 }
    end
    if not w:leads() or not pair or not snapshot.sysid then
        return
    end
    local ctx = { env = w.env, agents = w.ctx.agents, sysid = snapshot.sysid }
    self.ahead = false
    local wanted = hosts_record.of(pair, pair.primary.mode, pair.pair.epoch, snapshot.state.epoch)
    for _, host in ipairs(self.hosts) do
        look_at(self, ctx, host, wanted)
    end
end

--- What a transition that takes a pair out of sync is to be done with: an attempt that found no
--- majority is gone on with, so that the pair's epoch does not grow with each.
---@param pair table
---@param action table fts.step's
---@return Out
function Hosts:out(pair, action)
    local tried = pair.out
    pair.out = { reason = action.reason, seen = action.seen,
                 reserved = tried and tried.reserved,
                 told = function(host, record, err)
                     heard(self, host, record, err)
                 end }
    return pair.out
end

return M
