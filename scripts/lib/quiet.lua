--- Stopping what is left of an instance whose directory is about to be written, or left behind.
local agents = require("lib.agents")

local M = {}

local STOP_DEADLINE_MS = 20000

--- Whether there is a postmaster to talk to; one that was stopped by a signal hears nobody.
---@param word table the host's word about the instance
---@return boolean
function M.runs(word)
    local postmaster = word.postmaster or {}
    for _, process in ipairs(word.processes or {}) do
        if process.pid == postmaster.pid and process.state:lower() == "t" then
            return false
        end
    end
    return postmaster.alive == true
end

--- Stops an instance that still runs: with care while it answers, else as a fence.
---@param ctx table {agents}
---@param inst table
---@param word table the host's word about it
---@param epoch integer
---@return boolean? ok
---@return Error? err
function M.stop(ctx, inst, word, epoch)
    if word.stopped then
        return true
    end
    if word.epoch and word.epoch.valid and M.runs(word) then
        local done = ctx.agents:order(inst, "stop",
            { epoch = epoch, mode = "fast", wait_ms = STOP_DEADLINE_MS },
            { timeout_ms = STOP_DEADLINE_MS + 5000 })
        if done and done.stopped then
            return true
        end
    end
    -- After the stop of the same epoch, which a fence otherwise precedes.
    local fenced, err = ctx.agents:order(inst, "fence",
        { epoch = epoch, step = agents.steps.stop + 1 })
    if not fenced then
        return nil, err
    end
    return true
end

return M
