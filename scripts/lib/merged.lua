--- A new table of what others hold; where two hold the same key, the later one has it.

---@param ... table?
---@return table
return function(...)
    local all = {}
    for i = 1, select("#", ...) do
        for key, value in pairs((select(i, ...)) or {}) do
            all[key] = value
        end
    end
    return all
end
