--- What a prober sees of a simulated server, and when.
local M = {}

local function peer_of(server)
    local peer = server.world.servers[5 - server.dbid]
    local link = peer and peer.link
    if not link or link.source ~= server then
        return nil
    end
    return { name = link.name, state = "streaming", sync = "sync", flush_lsn = link.flushed,
             sent_lsn = #server.wal }
end

-- Whether what its primary sends still arrives.
local function hears(server)
    local link = server.link
    return link and link.source.up and link.source.life == link.life and not link.life.stopped
        and not server.world.cut
end

local function answer_of(server)
    local primary = not server.in_recovery
    return {
        evidence = "ok", in_recovery = server.in_recovery, sysid = "7", lsn = #server.wal,
        replay_lsn = not primary and server:replayed() or nil,
        timeline = server.timeline,
        sync_names = server.live_names, sync_commit = "on",
        waiting = primary and #server.waiting or 0, peer = primary and peer_of(server) or nil,
        replay_paused = server.paused,
        received_ms = not primary and hears(server) and 0 or nil,
    }
end

local function outcome(server)
    if server.world:apart(server.dbid) then
        return nil
    elseif not server.up or not server.listen then
        return { evidence = "refused", message = "refused" }
    elseif server.life.stopped then
        return nil
    elseif server.recovering then
        return { evidence = "recovering", message = "starting up" }
    end
    return answer_of(server)
end

local function tell(prober, target, dbid, seen)
    prober.process:after(0, function()
        if prober.targets[dbid] == target then
            seen.dbid = dbid
            prober.spec.observed(seen)
        end
    end)
end

--- Asks a server; nothing is done while it is being asked.
---@param prober table tests/sim/engine.lua's
---@param target table {server, asked}
---@param dbid integer
function M.ask(prober, target, dbid)
    local clock, server = prober.world.clock, target.server
    if target.asked then
        return
    end
    target.asked = true
    local began = clock.now
    local function ended(seen)
        target.asked = nil
        seen.at, seen.took = clock.now, clock.now - began
        tell(prober, target, dbid, seen)
    end
    local function silence(evidence)
        clock:after(prober.spec.timeout_ms, function()
            ended({ evidence = evidence, message = "no answer", fresh = true })
        end)
    end
    clock:after(1 + prober.world.dice:number(8), function()
        local seen = outcome(server)
        if not seen then
            silence("timeout")
        elseif server.deaf and seen.evidence == "ok" then
            -- The standing session answers, a fresh one does not come about.
            ended(seen)
            silence("no_new_session")
        else
            seen.fresh = true
            ended(seen)
        end
    end)
end

--- The standing session broke.
---@param prober table
---@param target table
---@param dbid integer
function M.broken(prober, target, dbid)
    tell(prober, target, dbid, { evidence = "reset", message = "reset", took = 0, fresh = true,
        at = prober.world.clock.now })
    M.ask(prober, target, dbid)
end

return M
