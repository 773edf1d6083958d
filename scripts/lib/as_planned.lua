--- Whether a pair is still the one that a recovery was planned for, which may be minutes ago.
local cluster = require("lib.cluster")
local move = require("lib.move")
local mr = require("moonrise")

--- Asks the catalog. Under the content's lease the answer holds.
---@param ctx table {cat}
---@param failed Failed
---@param status? "u"|"d" what the mirror has to be; nil: either
---@return boolean? ok
---@return Error? err code "busy" when the pair has changed
return function(ctx, failed, status)
    local pair, err = ctx.cat:pair(failed.content)
    if not pair then
        return nil, err
    end
    local mirror, planned = pair.mirror, failed.from or failed.target
    if pair.primary.dbid == failed.source.dbid and mirror and mirror.dbid == planned.dbid
        and move.is_at(mirror, planned) and (not status or mirror.status == status) then
        return true
    end
    return nil, mr.error("busy", "its pair has changed since the plan was made",
        { instance = cluster.name(planned), hint = "run the same command again" })
end
