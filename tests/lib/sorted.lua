--- The keys of a table in order, for what must not depend on how tables are kept.
---@param source table
---@return any[]
return function(source)
    local keys = {}
    for key in pairs(source) do
        table.insert(keys, key)
    end
    table.sort(keys)
    return keys
end
