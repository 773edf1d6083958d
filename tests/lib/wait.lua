--- Waiting for a condition, with a deadline, and saying what was awaited when it passes.

local system = require("system")

local M = {}

--- For whatever comes soon. Generous, since machines are slow now and then, and only a failure
--- waits for so long; what has to be quick is measured.
M.SOON_S = 120

-- Between two looks at the condition.
local PAUSE_S = 0.02
-- Between two that start a program, and a backend in a server: who waits would take the time of
-- those he waits for.
local LONG_PAUSE_S = 0.5
local PAUSE_PER_LOOK = 3
local pause = system.sleep

--- Seconds of a clock that never jumps.
---@return number
M.now = system.monotime

local function until_true(what, deadline_s, fn, pause_s)
    local start = M.now()
    while true do
        local began = M.now()
        local ok, value, more = pcall(fn)
        if ok and value then
            return value, more
        end
        if M.now() - start > deadline_s then
            local last = ok and more or value
            error(("waited %g s for %s; last: %s"):format(deadline_s, what, tostring(last)), 2)
        end
        pause(pause_s(M.now() - began))
    end
end

--- Asks fn until it returns something true; that is returned. An error in fn counts as "not yet".
---@param what string what is awaited, for the message
---@param deadline_s number
---@param fn fun(): any
---@return any
function M.eventually(what, deadline_s, fn)
    return until_true(what, deadline_s, fn, function()
        return PAUSE_S
    end)
end

--- The same for what stays so once it is, and where fn asks a server.
---@param what string
---@param deadline_s number
---@param fn fun(): any
---@return any
function M.patiently(what, deadline_s, fn)
    return until_true(what, deadline_s, fn, function(look_s)
        return math.min(math.max(PAUSE_PER_LOOK * look_s, PAUSE_S), LONG_PAUSE_S)
    end)
end

--- Asks fn for a span of time and fails as soon as it returns something false: for what must not
--- happen.
---@param what string
---@param span_s number
---@param fn fun(): any
function M.always(what, span_s, fn)
    local start = M.now()
    repeat
        local value, more = fn()
        if not value then
            local took = M.now() - start
            error(("%s: no longer so after %.2f s; %s"):format(what, took, tostring(more)), 2)
        end
        pause(PAUSE_S)
    until M.now() - start > span_s
end

return M
