--- Where tablespaces of a primary go on its mirror, as commands are told it.
local M = {}

--- The option that says it.
M.option = { key = "tablespaces", long = "tablespace-mapping", arg = "OLD=NEW", repeatable = true,
    help = "where a tablespace of the primary in directory OLD goes on the mirror" }

--- { "OLD=NEW" } as { OLD = NEW }.
---@param list? string[]
---@return table<string, string>? mapping
---@return string? problem
function M.parse(list)
    local mapping = {}
    for _, text in ipairs(list or {}) do
        local old, new = text:match("^(/[^=]*)=(/[^=]*)$")
        if not old then
            return nil, ("--tablespace-mapping %s: two absolute paths with = between"):format(text)
        end
        mapping[old] = new
    end
    return mapping
end

return M
