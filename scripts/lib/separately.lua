--- Work on several instances at once that can be stopped: each stands for itself, and whatever ends
--- it all, each entry knows in the end what became of it, and nobody works on it any more.
local mr = require("moonrise")
local by_host = require("lib.by_host")
local finally = require("lib.finally")
local stop_requests = require("lib.stop_requests")
local term = require("lib.term")
local wait = require("lib.wait")

local M = {}

local END_MS, PAUSE_MS = 30000, 20

local function is_over(entries)
    for _, entry in ipairs(entries) do
        if entry.busy then
            return nil, mr.error("timeout", "it has not ended")
        end
    end
    return true
end

---@class SeparateWork
---@field question string what is asked on Ctrl-C
---@field host_of fun(entry: table): string
---@field run fun(entry: table, progress: Progress): table?, Error?

--- Runs work.run for each; entry.numbers is what it returned, or entry.err says why not.
---@param entries table[]
---@param opts {hosts: integer, batch: integer, no_progress: boolean?, sequential: boolean?} the
--- command's: hosts at a time, entries per host at a time
---@param work SeparateWork
function M.run(entries, opts, work)
    local progress = term.progress({ off = opts.no_progress, sequential = opts.sequential })
    local results = {}
    local ok, problem = pcall(stop_requests.guard, work.question, function()
        results = by_host.run(entries, work.host_of, opts, function(entry)
            entry.busy = true
            entry.numbers, entry.err = finally(function()
                entry.busy = false
            end, work.run, entry, progress)
            return entry.numbers, entry.err
        end)
        return results
    end)
    -- What was cancelled comes to its end; nothing is taken back beside it.
    wait.eventually(END_MS, PAUSE_MS, function()
        return is_over(entries)
    end)
    progress:finish()
    for i, entry in ipairs(entries) do
        if not entry.numbers and not entry.err then
            -- Of what has raised an error it is the results that say so.
            entry.err = not ok and problem or (results[i] or {}).error
                or mr.error("cancelled", "it was not begun")
        end
    end
end

return M
