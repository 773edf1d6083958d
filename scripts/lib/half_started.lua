--- A coordinator that runs in a cluster that counts as stopped: its start was killed, or was one of
--- the coordinator alone. Nothing there is a failure to the watcher, and it starts nothing itself
--- (SAFETY.md, rule 4): so people are told, once, when nobody is at work on it.
local mr = require("moonrise")

local M = {}

-- Between the coordinator's start and the leases of its command, and between those and the end of
-- a stop, nobody holds any.
local PATIENCE_MS = 5000

local function somebody_works(snapshot)
    for _, lease in pairs(snapshot.leases) do
        if not lease.gone and lease.expires > mr.clock() then
            return true
        end
    end
    return false
end

--- Takes note of a look at the catalog.
---@param w Watcher
---@param snapshot table lib/lease.lua's, as Watcher:apply has left it
function M.look(w, snapshot)
    if snapshot.state.state ~= "stopped" or somebody_works(snapshot) then
        w.half_started = nil
        return
    end
    local known, times = w.half_started, w.lease.times
    -- What was seen before a stop ended that session says nothing of the start that came after it.
    if not known or known.times ~= times then
        known = { since = mr.clock(), times = times }
        w.half_started = known
    end
    if w:leads() and not known.told and mr.clock() - known.since >= PATIENCE_MS then
        known.told = true
        w.journal:add("alert", { content = -1, text = "the coordinator runs, and the cluster "
            .. "counts as stopped: nothing is failed over before moonrise start has ended" })
    end
end

return M
