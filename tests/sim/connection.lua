--- What mr.connect is in a simulated process: the few questions that are asked of an instance by
--- SQL, answered by the model of the server.
local real = require("moonrise")

local M = {}

local Connection = {}
Connection.__index = Connection

local PARAMETERS = real.json_encode({ max_connections = 100 })

local function arming_primary(server, mirror)
    local link = mirror.link
    local active = link ~= nil and link.source == server and server.slots[mirror.dbid]
    return {
        name = active and link.name or nil, pid = active and 1 or nil,
        state = active and "streaming" or nil,
        slot = server.slots[mirror.dbid] and "mr_slot_" .. mirror.dbid or nil,
        lag_bytes = active and link.flushed and #server.wal - link.flushed or nil,
        sync_commit = "on", version = server.world.version, timeline = server.timeline,
        parameters = PARAMETERS,
    }
end

local function arming_mirror(server)
    local link = server.link
    return {
        in_recovery = server.in_recovery, paused = server.in_recovery and server.paused or nil,
        replay_lag_bytes = server.in_recovery and #server.wal - server:replayed() or nil,
        sync_names = server.names,
        status = link and "streaming" or nil, flush_lsn = link and #server.wal or nil,
        slot = link and "mr_slot_" .. server.dbid or nil, name = link and link.name or nil,
        timeline = link and server.timeline or nil, parameters = PARAMETERS,
    }
end

-- What is asked, by words that only that question has; a question that is not here is an error.
local questions = {
    { "pg_stat_wal_receiver", arming_mirror },
    { "json_object_agg", arming_primary },
    { "wal_status", function(server, mirror)
        local row = arming_primary(server, mirror)
        return row.slot and { wal_status = "reserved", reserved = true, state = row.state,
                              flush_lsn = row.lag_bytes and #server.wal - row.lag_bytes or nil }
    end },
    { "replay_bytes", function(server, mirror)
        return arming_primary(server, mirror).pid and { replay_bytes = 0 } or nil
    end },
    { "pg_is_wal_replay_paused", function(server)
        return { lsn = #server.wal, paused = server.paused }
    end },
    { "pg_current_wal_flush_lsn", function(server)
        return { lsn = #server.wal }
    end },
    { "pg_last_wal_replay_lsn", function(server)
        return { lsn = server:replayed() }
    end },
}

function Connection:query(sql)
    local server, world = self.server, self.server.world
    local answer, err = self.mr.await(3000, function(answer)
        world.clock:after(world:statement_ms(), function()
            if not server:running() or server.life ~= self.life or world:apart(server.dbid) then
                return
            end
            for _, question in ipairs(questions) do
                if sql:find(question[1], 1, true) then
                    answer({ question[2](server, world.servers[5 - server.dbid]) })
                    return
                end
            end
            world:fault("the simulated server does not know: " .. sql)
        end)
    end)
    return answer, err
end

function Connection.close() end

--- mr.connect for a process: by the port, as tests/sim/catalog.lua gives them out.
---@param process table
---@return function
function M.connector(process)
    return function(spec)
        local world = process.world
        local server = world.servers[spec.port - 6000]
        if not server:accepts() or not server.listen or world:apart(server.dbid) then
            local _, cancelled = process.mr.sleep(server.up and 500 or 2)
            return nil, cancelled or real.error("connect", "the server does not answer")
        end
        return setmetatable({ server = server, life = server.life, mr = process.mr }, Connection)
    end
end

return M
