--- What a plan leaves out, with the reasons.
local term = require("lib.term")

--- Says of each that it is skipped, and why. A host that is not reached is named once, whatever is
--- on it.
---@param skipped table[] each with its `err`
---@param name_of fun(entry: table): string
return function(skipped, name_of)
    local named = {}
    for _, entry in ipairs(skipped) do
        local err = entry.err
        if err.code ~= "connect" or not named[err.message] then
            term.error(err)
        end
        named[err.message] = true
        term.warn("%s: skipped", name_of(entry))
    end
end
