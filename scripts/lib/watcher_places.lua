--- What instances have left behind (lib/left_places.lua), as far as nobody else is at work there:
--- an old primary whose host comes back is marked and ended as soon as that answers, and what
--- nobody needs any more goes. Each place in a task of its own, so that a host that hangs keeps
--- nobody waiting.
local left_places = require("lib.left_places")
local mr = require("moonrise")

local M = {}

-- Of one that has just been left a command takes care; what went wrong does so for a while.
local AGAIN_MS, RETRY_MS = 5000, 30000

local function key_of(place)
    return place.hostname .. " " .. place.datadir
end

local function task(w, place, known)
    known.busy = true
    mr.spawn(function()
        local ctx = { env = w.env, agents = w.ctx.agents, cat = w.lease.cat }
        local ok, done, err = pcall(left_places.settle, ctx, place, nil)
        local problem = not ok and done or not done and err or nil
        known.busy, known.due = false, mr.clock() + (problem and RETRY_MS or AGAIN_MS)
        local text = problem and tostring(problem) or nil
        if text and text ~= known.told then
            w.journal:add("place", { content = place.content, dbid = place.dbid,
                text = ("what dbid %d has left in %s:%s: %s"):format(place.dbid, place.hostname,
                    place.datadir, text) })
        end
        known.told = text
    end)
end

local function is_free(w, snapshot, place)
    local lease = snapshot.leases[place.content]
    return w.lease.cat ~= nil and not (lease and lease.expires > mr.clock())
        and not w.pairs[place.content].pair.unconfirmed
end

--- Takes note of a look at the catalog.
---@param w Watcher
---@param snapshot table lib/lease.lua's, as Watcher:apply has left it
function M.look(w, snapshot)
    local before, now = w.places or {}, {}
    for _, place in ipairs(snapshot.left) do
        local key = key_of(place)
        local known = before[key] or { due = mr.clock() + AGAIN_MS }
        now[key] = known
        if w:leads() and snapshot.state.state == "running" and w.pairs[place.content]
            and not known.busy and mr.clock() >= known.due and is_free(w, snapshot, place) then
            task(w, place, known)
        end
    end
    w.places = now
end

return M
