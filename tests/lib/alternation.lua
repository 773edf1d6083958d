--- How often the one that acknowledges commits changed, from what clients saw: pure.
local copy = require("tests.lib.copy")

local M = {}

--- Counts the changes between instances. An acknowledgement that was begun before the other one's
--- first does not count: its answer may just have come late. An instance that acknowledges again
--- what was begun after the other one had acknowledged makes two changes more than there were
--- changes of roles.
---@param acks {dbid: integer, begun: number, done: number}[]
---@return integer
function M.count(acks)
    local sorted = copy(acks)
    table.sort(sorted, function(a, b)
        return a.done < b.done
    end)
    local changes, now, since = 0, nil, nil
    for _, ack in ipairs(sorted) do
        if ack.dbid ~= now and (not since or ack.begun > since) then
            changes = changes + (now and 1 or 0)
            now, since = ack.dbid, ack.done
        end
    end
    return changes
end

return M
