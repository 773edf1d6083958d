--- The hosts' records of the coordinator's pair, as engine/agent/record.c keeps them.
local copy = require("tests.lib.copy")
local refuse = require("tests.sim.orders").refuse

local M = {}

local function newer(record, last)
    return record.epoch > last.epoch
        or (record.epoch == last.epoch and record.mode == "n" and last.mode == "s")
end

local function same(a, b)
    return a.epoch == b.epoch and a.mode == b.mode and a.coordinator == b.coordinator
        and a.standby == b.standby
end

--- What a host has on record.
---@param records table<string, table> by host
---@param host string
---@return table record
function M.record_read(records, host)
    local record = copy(records[host] or {})
    record.found = records[host] ~= nil
    return record
end

--- Has a host record something.
---@param records table<string, table>
---@param host string
---@param args table
---@return table record
function M.record_write(records, host, args)
    local last = records[host]
    local record = { epoch = args.epoch, mode = args.mode, coordinator = args.coordinator,
                     standby = args.standby, catalog_epoch = args.catalog_epoch }
    if last and record.coordinator ~= last.coordinator and not args.activates then
        refuse("refused", "dbid %d is the coordinator", last.coordinator)
    elseif last and not newer(record, last) and not same(record, last) then
        refuse("stale", "epoch %d comes too late", record.epoch)
    end
    record.catalog_epoch = math.max(record.catalog_epoch, last and last.catalog_epoch or 0)
    records[host] = record
    return M.record_read(records, host)
end

return M
