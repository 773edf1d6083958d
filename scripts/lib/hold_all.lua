--- Holding the leases of many contents at once: what `start` and `stop` do to the whole cluster.
local hold = require("lib.hold")

local M = {}

local function drop(cat, tokens)
    for _, token in pairs(tokens) do
        cat:call("lease_drop", token)
    end
end

local function take(cat, contents, intent, skip)
    local tokens, skipped = {}, {}
    for _, content in ipairs(contents) do
        local token, err = hold.take(cat, content, intent, "begun")
        if not token and not (skip and err.code == "busy") then
            drop(cat, tokens)
            return nil, err
        end
        tokens[content], skipped[content] = token, err
    end
    return tokens, skipped
end

--- The list of tokens as cluster_set_state takes it.
---@param tokens table<integer, integer>
---@return string
function M.list(tokens)
    local list = {}
    for _, token in pairs(tokens) do
        table.insert(list, ("%d"):format(token))
    end
    return "{" .. table.concat(list, ",") .. "}"
end

--- Runs fn(leases) while holding the leases of these contents; leases.tokens[content] is for the
--- catalog's transitions. They are dropped whatever fn returns or raises, unless it has set
--- leases.gone (the catalog is gone, or has given them back).
---@param ctx table {cat}
---@param contents integer[]
---@param intent string
---@param fn function
---@param skip? boolean contents that somebody else holds are left out: leases.skipped[content] is
--- the error that says who has them
---@return any ... what fn returned; nil, err (code "busy") when somebody holds one of them
function M.contents(ctx, contents, intent, fn, skip)
    local tokens, skipped = take(ctx.cat, contents, intent, skip)
    if not tokens then
        return nil, skipped
    end
    local leases = { tokens = tokens, skipped = skipped, step = "going on" }
    return hold.renewing(ctx.cat, leases, function()
        if not leases.gone then
            drop(ctx.cat, tokens)
        end
    end, fn)
end

return M
