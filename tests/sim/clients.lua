--- Clients that write to whichever server lets them, and know what they saw acknowledged.
local M = {}

local PATIENCE_MS = 3000

local function reachable(world)
    local first = world.dice:number(1) < 0.5 and 2 or 3
    for _, dbid in ipairs({ first, 5 - first }) do
        local server = world.servers[dbid]
        if server.up and server.listen and not server.in_recovery and not server.recovering then
            return server
        end
    end
end

local function write(world, server, on_end)
    world.records = (world.records or 0) + 1
    local record, over = { id = world.records }, false
    local function finish()
        if not over then
            over = true
            on_end()
        end
    end
    world.clock:after(PATIENCE_MS, finish)
    local life = server.life
    life:after(0.5 + world.dice:number(1), function()
        if not server.listen or server.in_recovery then
            return finish()
        end
        server:commit(record, function()
            world.promise:released(server, record)
            life:after(0.2 + world.dice:number(1), function()
                -- Who has given up does not see it any more.
                if not over then
                    world.promise:acknowledge(server, record)
                end
                finish()
            end)
        end)
    end)
end

--- Starts a client, which writes until world.quiet.
---@param world table
function M.start(world)
    local function turn()
        if world.quiet then
            return
        end
        local server = reachable(world)
        local function again()
            world.clock:after(1 + world.dice:number(40), turn)
        end
        if server then
            write(world, server, again)
        else
            world.clock:after(50, turn)
        end
    end
    turn()
end

return M
