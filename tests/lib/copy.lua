--- A copy of a table, without the tables in it, and with other values.
---@param source table
---@param changes? table
---@return table
return function(source, changes)
    local target = {}
    for key, value in pairs(source) do
        target[key] = value
    end
    for key, value in pairs(changes or {}) do
        target[key] = value
    end
    return target
end
