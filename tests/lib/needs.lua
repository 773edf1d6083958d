--- Tests that need what not every machine has, or time that only a campaign has: skipped with the
--- reason.
---
---     local test = require("tests.lib.needs").of(getfenv(), function()
---         return lab, why_not
---     end)
---     test("goes on", function() ... end)
---     test("goes on for hours", function() ... end, "long")

local M = {}

---@param busted table the spec's environment, which has `pending` as it is inside of a test only
--- while one runs
---@param need fun(): any, string? what they all need; where it is not there, why
---@return fun(what: string, fn: fun(), long: any?) test long: only in a campaign
function M.of(busted, need)
    return function(what, fn, long)
        busted.it(what, function()
            local there, why_not = need()
            if not there then
                return busted.pending(why_not)
            elseif long and not os.getenv("MOONRISE_CAMPAIGN") then
                return busted.pending("only in a campaign")
            end
            fn()
        end)
    end
end

return M
