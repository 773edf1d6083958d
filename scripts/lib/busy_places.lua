--- Places to which mirrors that are up are being copied (lib/live_move.lua). No lease is held
--- meanwhile: whoever does something else to such a pair leaves the slot and the address of the
--- copy alone.
local hold = require("lib.hold")

local M = {}

--- Those of a content that somebody else holds.
---@param ctx table {cat}
---@param content integer
---@return LeftPlace[]? places
---@return Error? err
function M.of_others(ctx, content)
    local list, err = ctx.cat:busy_places(content)
    local others = list and {}
    for _, place in ipairs(list or {}) do
        if place.busy_by ~= hold.holder() then
            table.insert(others, place)
        end
    end
    return others, err
end

--- The rows of a content's instances, with those that the copies will be.
---@param ctx table {cat}
---@param content integer
---@param instances table[] all of the cluster
---@return table[]? rows
---@return Error? err
function M.with(ctx, content, instances)
    local list, err = ctx.cat:busy_places(content)
    if not list then
        return nil, err
    end
    for _, place in ipairs(list) do
        place.role = "m"
    end
    for _, inst in ipairs(instances) do
        table.insert(list, inst)
    end
    return list
end

--- What a command of this host held that was killed is nobody's: nobody has to wait for it.
---@param ctx table {cat}
---@param content integer
---@return boolean? ok
---@return Error? err
function M.release_orphans(ctx, content)
    local list, err = ctx.cat:busy_places(content)
    for _, place in ipairs(list or {}) do
        if not err and hold.is_gone(place.busy_by) then
            local _
            _, err = ctx.cat:call("place_hold", place.dbid, place.hostname, place.datadir,
                place.busy_by, "0 seconds")
        end
    end
    return not err or nil, err
end

return M
