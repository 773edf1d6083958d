local mr = require("moonrise")

--- What JSON said, copied, where null is nothing: what a field does not have it lacks. A list with
--- a null in it has a hole there.
---@param value any mr.json_decode's
---@return any
local function without_null(value)
    if value == mr.null then
        return nil
    elseif type(value) ~= "table" then
        return value
    end
    local copy = {}
    for key, item in pairs(value) do
        copy[key] = without_null(item)
    end
    return copy
end

return without_null
