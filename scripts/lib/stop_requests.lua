--- Ctrl-C, SIGTERM and a lost terminal during long work, as BEHAVIOURS.md says.
---
--- SIGINT asks whether to stop (default: go on); SIGTERM stops what is not finished; SIGHUP is
--- ignored. Stopping cancels the task the work runs in: each operation in it ends with "cancelled",
--- and the agents end their copies when their calls are withdrawn.
local mr = require("moonrise")
local term = require("lib.term")

local M = {}

local state = { asked = false, asking = false, stoppable = {} }

--- Whether somebody asked this process to stop.
---@return boolean
function M.asked()
    return state.asked
end

local function ask(stop, question)
    if state.asking then
        return
    end
    state.asking = true
    if not mr.is_tty("stdin") then
        stop()
        return
    end
    mr.err(("\n%s? [y/N] "):format(question))
    local answer = mr.read_line()
    state.asking = false
    if answer and answer:lower():match("^%s*y") then
        stop()
    else
        term.info("Going on.")
    end
end

-- Runs fn() in a task of its own, with the signals meaning what this file says; on_stop(task) is
-- called when it shall end.
local function listening(question, on_stop, fn)
    local work = mr.spawn(fn)
    local function stop()
        state.asked = true
        on_stop(work)
    end
    mr.on_signal("INT", function()
        mr.spawn(ask, stop, question)
    end)
    mr.on_signal("TERM", stop)
    mr.on_signal("HUP", function() end)
    local results = { work:wait() }
    mr.on_signal("INT", nil)
    mr.on_signal("TERM", nil)
    if results[1] == nil and results[2] then
        error(results[2], 0)
    end
    return unpack(results, 1, table.maxn(results))
end

--- Runs fn() so that it can be stopped; returns what it returns, or raises the error with code
--- "cancelled" when it was stopped.
---@param question string
---@param fn function
---@return any
function M.guard(question, fn)
    return listening(question, function(work)
        work:cancel()
    end, fn)
end

--- Runs fn() to its end, whatever is asked: it looks at `asked` between two steps that belong
--- together, and nothing in it is cancelled but what it runs by `stoppable`.
---@param question string
---@param fn function
---@return any
function M.between(question, fn)
    return listening(question, function()
        for task in pairs(state.stoppable) do
            task:cancel()
        end
    end, fn)
end

--- Within `between`: runs fn(), which is cancelled when a stop is asked for.
---@param fn function
---@return any ... what fn returned; nil, err (code "cancelled") when it was stopped
function M.stoppable(fn)
    local task = mr.spawn(fn)
    state.stoppable[task] = true
    local results = { task:wait() }
    state.stoppable[task] = nil
    return unpack(results, 1, table.maxn(results))
end

return M
