--- Ctrl-C, SIGTERM and a lost terminal during long work, as BEHAVIOURS.md says.
---
--- SIGINT asks whether to stop (default: go on); SIGTERM stops what is not finished; SIGHUP is
--- ignored. Stopping cancels the task the work runs in: each operation in it ends with "cancelled",
--- and the agents end their copies when their calls are withdrawn.
local mr = require("moonrise")
local term = require("lib.term")

local M = {}

local state = { asked = false, asking = false }

--- Whether somebody asked this process to stop.
---@return boolean
function M.asked()
    return state.asked
end

local function stop(work)
    state.asked = true
    work:cancel()
end

local function ask(work, question)
    if state.asking then
        return
    end
    state.asking = true
    if not mr.is_tty("stdin") then
        stop(work)
        return
    end
    mr.err(("\n%s? [y/N] "):format(question))
    local answer = mr.read_line()
    state.asking = false
    if answer and answer:lower():match("^%s*y") then
        stop(work)
    else
        term.info("Going on.")
    end
end

--- Runs fn() so that it can be stopped; returns what it returns, or raises the error with code
--- "cancelled" when it was stopped.
---@param question string
---@param fn function
---@return any
function M.guard(question, fn)
    local work = mr.spawn(fn)
    mr.on_signal("INT", function()
        mr.spawn(ask, work, question)
    end)
    mr.on_signal("TERM", function()
        stop(work)
    end)
    mr.on_signal("HUP", function() end)
    local results = { work:wait() }
    mr.on_signal("INT", nil)
    mr.on_signal("TERM", nil)
    if results[1] == nil and results[2] then
        error(results[2], 0)
    end
    return unpack(results, 1, table.maxn(results))
end

return M
