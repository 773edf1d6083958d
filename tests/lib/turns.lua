--- Waiting inside of a task (mr.main), while the loop goes on.

local mr = require("moonrise")

local assert = require("luassert")

local M = {}

--- For whatever comes soon, as wait.SOON_S.
M.SOON_MS = 120000

-- Between two looks at the condition.
local PAUSE_MS = 5
local pause = mr.sleep

--- Asks fn until it returns something true; that is returned.
---@param what string what is awaited, for the message
---@param deadline_ms number
---@param fn fun(): any
---@return any
function M.eventually(what, deadline_ms, fn)
    local start = mr.clock()
    while true do
        local value = fn()
        if value then
            return value
        elseif mr.clock() - start > deadline_ms then
            error(("waited %g ms for %s"):format(deadline_ms, what), 2)
        end
        pause(PAUSE_MS)
    end
end

--- A test that is a task, and leaves nothing in the loop behind.
---@param fn fun()
---@return fun() test
function M.main(fn)
    return function()
        mr.main(fn)
        assert.equals(0, mr._handles())
    end
end

--- Lets every task that can run go on until it waits.
function M.turn()
    mr.spawn(function() end):wait()
end

--- Waits until it is cancelled, far longer than any spec: an operation like any other.
---@return nil
---@return Error err
function M.linger()
    return mr.queue():pop(1e6)
end

--- Starts fn(...) as a task and returns when it waits for the first time.
---@param fn function
---@param ... any
---@return Task
function M.begin(fn, ...)
    local begun = mr.queue()
    local task = mr.spawn(function(...)
        begun:push(true)
        return fn(...)
    end, ...)
    begun:pop()
    return task
end

return M
