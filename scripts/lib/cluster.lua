--- Words about a cluster's instances: rows of gp_segment_configuration as tables.
local M = {}

--- What an instance is called in messages.
---@param inst table
---@return string
function M.name(inst)
    return ("dbid %d (content %d, %s:%d, %s)"):format(
        inst.dbid, inst.content, inst.hostname, inst.port, inst.datadir)
end

local function by_content(a, b)
    return a.content < b.content
end

--- The pairs of a cluster, ordered by content. A content whose rows name no primary (which the
--- catalog refuses) is left out.
---@param instances table[]
---@return {content: integer, primary: table, mirror: table?}[]
function M.pairs(instances)
    local found, list = {}, {}
    for _, inst in ipairs(instances) do
        local pair = found[inst.content] or { content = inst.content }
        found[inst.content] = pair
        pair[inst.role == "p" and "primary" or "mirror"] = inst
    end
    for _, pair in pairs(found) do
        if pair.primary then
            table.insert(list, pair)
        end
    end
    table.sort(list, by_content)
    return list
end

--- The instance with this dbid.
---@param instances table[]
---@param dbid integer
---@return table?
function M.find(instances, dbid)
    for _, inst in ipairs(instances) do
        if inst.dbid == dbid then
            return inst
        end
    end
    return nil
end

--- What stands in a column of the rows: each value once, in their order.
---@param instances table[]
---@param column string
---@return any[]
function M.values(instances, column)
    local seen, list = {}, {}
    for _, inst in ipairs(instances) do
        if not seen[inst[column]] then
            seen[inst[column]] = true
            table.insert(list, inst[column])
        end
    end
    return list
end

--- The pair of a content.
---@param instances table[]
---@param content integer
---@return table?
function M.pair(instances, content)
    for _, pair in ipairs(M.pairs(instances)) do
        if pair.content == content then
            return pair
        end
    end
    return nil
end

return M
