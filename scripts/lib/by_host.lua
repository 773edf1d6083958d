--- Work on many hosts at once: -B hosts at a time, and -b items on each.
local mr = require("moonrise")

local M = {}

local function groups_of(items, host_of)
    local groups, by_host = {}, {}
    for i, item in ipairs(items) do
        local host = host_of(item)
        if not by_host[host] then
            by_host[host] = {}
            table.insert(groups, by_host[host])
        end
        table.insert(by_host[host], i)
    end
    return groups
end

--- Runs fn(item) for every item, those of a host in their order; waits for all.
---@param items table
---@param host_of fun(item: any): string
---@param limits {hosts: integer, batch: integer} hosts at a time, items per host at a time
---@param fn function
---@return table results as mr.parallel's
function M.run(items, host_of, limits, fn)
    local results = {}
    mr.parallel(groups_of(items, host_of), limits.hosts, function(indexes)
        local done = mr.parallel(indexes, limits.batch, function(i)
            return fn(items[i])
        end)
        for at, i in ipairs(indexes) do
            results[i] = done[at]
        end
        return true
    end)
    for i = 1, #items do
        results[i] = results[i] or { error = mr.error("cancelled", "it was not begun") }
    end
    return results
end

--- Runs fn(item) for every item as above, and keeps apart what it could not do.
---@param items table[]
---@param host_of fun(item: table): string
---@param limits {hosts: integer, batch: integer}
---@param fn fun(item: table): table?, Error?
---@return table[] done what fn returned
---@return table[] failed the other items, each with its `err`
function M.sort_out(items, host_of, limits, fn)
    local done, failed = {}, {}
    for i, result in ipairs(M.run(items, host_of, limits, fn)) do
        if result.error then
            items[i].err = result.error
            table.insert(failed, items[i])
        else
            table.insert(done, result)
        end
    end
    return done, failed
end

return M
