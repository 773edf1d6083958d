--- Waiting for something that nobody announces.
local mr = require("moonrise")

local M = {}

--- Asks until fn says something true, at most for so long; a task that is cancelled waits no more.
---@param deadline_ms number
---@param pause_ms number
---@param fn fun(): any, Error?
---@return any value nil when it never did
---@return Error? err fn's last one, or code "cancelled"
function M.eventually(deadline_ms, pause_ms, fn)
    local deadline = mr.clock() + deadline_ms
    while true do
        local value, err = fn()
        if value or (err and err.code == "cancelled") or mr.clock() > deadline then
            return value, err
        end
        local _, cancelled = mr.sleep(pause_ms)
        if cancelled then
            return nil, cancelled
        end
    end
end

return M
