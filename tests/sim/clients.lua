--- Clients: some write to whichever server lets them, and know what they saw acknowledged; others
--- read what a primary has. Each keeps its session for as long as it lasts.
local M = {}

local PATIENCE_MS = 3000

local function lasts(session)
    return session and session.life == session.server.life and session.server:writable()
end

-- A session with a server that takes writes; the one it has, as long as that lasts.
local function session_of(world, client)
    if lasts(client.session) then
        return client.session
    end
    client.session = nil
    local first = world.dice:number(1) < 0.5 and 2 or 3
    for _, dbid in ipairs({ first, 5 - first }) do
        local server = world.servers[dbid]
        if server:accepts() and server.listen and server:writable() then
            client.session = { server = server, life = server.life }
            return client.session
        end
    end
end

local function write(world, session, on_end)
    world.records = (world.records or 0) + 1
    local record, over = { id = world.records }, false
    local function finish()
        if not over then
            over = true
            on_end()
        end
    end
    world.clock:after(PATIENCE_MS, finish)
    local server, life = session.server, session.life
    life:after(0.5 + world.dice:number(1), function()
        if not lasts(session) then
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

--- Starts a client that writes until world.quiet.
---@param world table
function M.writer(world)
    local client = {}
    local function turn()
        if world.quiet then
            return
        end
        local session = session_of(world, client)
        local function again()
            world.clock:after(1 + world.dice:number(60), turn)
        end
        if session then
            write(world, session, again)
        else
            world.clock:after(50, turn)
        end
    end
    turn()
end

--- Starts a client that reads from one server whenever that serves as a primary, until world.quiet.
---@param world table
---@param server table
function M.reader(world, server)
    local client = {}
    local function turn()
        if world.quiet then
            return
        elseif not lasts(client.session) then
            client.session = server:accepts() and server.listen and server:writable()
                and { server = server, life = server.life } or nil
        end
        if client.session then
            world.promise:read(server)
        end
        world.clock:after(10 + world.dice:number(60), turn)
    end
    turn()
end

return M
