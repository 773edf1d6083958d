--- Work on several instances at once that can be stopped: each stands for itself, and whatever ends
--- it all, each entry knows in the end what became of it, and nobody works on it any more.
local mr = require("moonrise")
local by_host = require("lib.by_host")
local finally = require("lib.finally")
local stop_requests = require("lib.stop_requests")
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

--- Runs fn(entry) for each; entry.numbers is what it returned, or entry.err says why not.
---@param entries table[]
---@param options {question: string, host_of: (fun(entry: table): string), hosts: integer,
--- batch: integer} what is asked on Ctrl-C; hosts at a time, entries per host at a time
---@param fn fun(entry: table): table?, Error?
function M.run(entries, options, fn)
    local ok, problem = pcall(stop_requests.guard, options.question, function()
        return by_host.run(entries, options.host_of, options, function(entry)
            entry.busy = true
            entry.numbers, entry.err = finally(function()
                entry.busy = false
            end, fn, entry)
            return entry.numbers, entry.err
        end)
    end)
    -- What was cancelled comes to its end; nothing is taken back beside it.
    wait.eventually(END_MS, PAUSE_MS, function()
        return is_over(entries)
    end)
    for _, entry in ipairs(entries) do
        if not entry.numbers and not entry.err then
            entry.err = not ok and problem or mr.error("cancelled", "it was not begun")
        end
    end
end

return M
