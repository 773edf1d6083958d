--- A copy of a table, without the tables in it.
---@param source table
---@return table
return function(source)
    local target = {}
    for key, value in pairs(source) do
        target[key] = value
    end
    return target
end
