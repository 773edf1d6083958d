--- Kinds of faults for campaigns on real servers. Each does its harm to a content's pair or to
--- those who look after it, and may return what takes it back.
---
---     local world = faults.world(cluster, dice)    -- two watchers, the first is never killed
---     local undo = faults.kinds.hang_mirror(world, 0)
---     if undo then undo() end
---     world:mend()

local hurt = require("tests.lib.hurt")
local place_of = require("tests.lib.place")
local sorted = require("tests.lib.sorted")
local wait = require("tests.lib.wait")

local M = {}
local World = {}
World.__index = World

local SOON_S = wait.SOON_S
-- A command is killed at any moment of so long.
local COMMAND_S = 2
local SPARE_BYTES = 2 ^ 20
local CONTENT = "CONTENT"

--- A cluster, and two watchers of it of which one leads.
---@param cluster table
---@param dice table
---@return table world {cluster, dice, steady, rival}
function M.world(cluster, dice)
    local steady = cluster:watch()
    steady:says("watching", SOON_S)
    local rival = cluster:watch()
    rival:says("somebody else holds", SOON_S)
    return setmetatable({ cluster = cluster, dice = dice, steady = steady, rival = rival,
        commands = {} }, World)
end

--- Whoever is to look after the cluster does so again, and nobody's command is under way.
function World:mend()
    place_of.kill(self.steady.pid, "CONT")
    if self.rival:code() then
        self.rival = self.cluster:watch()
    else
        place_of.kill(self.rival.pid, "CONT")
    end
    for _, command in ipairs(self.commands) do
        command:wait(SOON_S)
    end
    self.commands = {}
end

local function by_dice(world, of, or_else)
    return world.dice:number(1) < 0.5 and of or or_else
end

local function one_of(world, content)
    return world.cluster:instance({ content = content, role = by_dice(world, "p", "m") })
end

local function primary(fn)
    return function(world, content)
        return fn(world.cluster:primary(content))
    end
end

local function mirror(fn)
    return function(world, content)
        return fn(world.cluster:mirror(content))
    end
end

local function either(fn)
    return function(world, content)
        return fn(one_of(world, content))
    end
end

-- Starts a command, which is killed at any moment or not at all; World:mend waits for its end. Of
-- its words CONTENT stands for the content.
local function command(...)
    local words = { ... }
    return function(world, content)
        local argv = {}
        for i, word in ipairs(words) do
            argv[i] = word == CONTENT and tostring(content) or word
        end
        local program = world.cluster:start(argv)
        table.insert(world.commands, program)
        if world.dice:number(1) < 0.5 then
            world.dice:kill(program, COMMAND_S)
        end
    end
end

local function watcher(world)
    return by_dice(world, world.steady, world.rival)
end

local function pg_ctl(...)
    local words = { ... }
    return function(server)
        server.place:run({ server.bin .. "/pg_ctl", "-D", server.datadir, "-l",
            server.place:path("by_hand.log"), "-t", "20", unpack(words) }, { timeout_s = 30 })
    end
end

-- A backend that is killed makes the postmaster restart all of them: crash recovery, no failover.
local function kill_backend(server)
    local child = hurt.children(assert(server:pid()), "pinned")[1]
    if child then
        place_of.kill(child, "KILL")
    end
end

M.kinds = {
    kill_primary = primary(hurt.kill),
    kill_mirror = mirror(hurt.kill),
    kill_both = function(world, content)
        local pair = { world.cluster:primary(content), world.cluster:mirror(content) }
        local first = by_dice(world, 1, 2)
        pair[first]:kill()
        pair[3 - first]:kill()
    end,
    kill_backend = primary(kill_backend),
    leave_backend = primary(function(server)
        local pid = hurt.leave_backend(server)
        return function()
            place_of.kill(pid, "CONT")
        end
    end),
    hang_primary = primary(hurt.stop_postmaster),
    freeze_primary = primary(hurt.stop_tree),
    hang_mirror = mirror(hurt.stop_postmaster),
    freeze_mirror = mirror(hurt.stop_tree),
    freeze_receiver = mirror(hurt.freeze_receiver),
    drop_receiver = mirror(hurt.drop_receiver),
    freeze_checkpointer = primary(function(server)
        return hurt.stop_process(server, "checkpointer")
    end),
    exhaust_connections = either(hurt.exhaust_connections),
    forbid_forks = either(hurt.forbid_forks),
    forbid_memory = either(function(server)
        return hurt.forbid_memory(server, SPARE_BYTES)
    end),
    somebody_restarts = either(pg_ctl("restart", "-m", "fast")),
    somebody_stops = either(pg_ctl("stop", "-m", "immediate")),
    freeze_standby = function(world)
        return hurt.stop_tree(world.cluster:instance({ content = -1, role = "m" }))
    end,
    kill_watcher = function(world)
        world.rival:kill("KILL")
    end,
    stop_watcher = function(world)
        place_of.kill(watcher(world).pid, "STOP")
    end,
    kill_agents = function(world)
        for _, pid in ipairs(hurt.children(watcher(world).pid, "moonrise agent")) do
            place_of.kill(pid, "KILL")
        end
    end,
    stop_agent = function(world)
        return hurt.stop_agent(watcher(world), world.cluster.place, "localhost")
    end,
    recover = command("recoverseg", "-a"),
    rebalance = command("recoverseg", "-a", "-r"),
    start = command("start", "-a"),
    switch_over = command("switchover", "-a", CONTENT),
    restart = command("restart", "-a", "-M", "fast", CONTENT),
    pause = function(world, content)
        world.cluster:must({ "pause", "-a", "--for", "1h", "--reason", "a fault",
            tostring(content) })
        return function()
            world.cluster:must({ "resume", "-a", tostring(content) })
        end
    end,
}

--- The names of all kinds, in a fixed order, for the dice.
M.names = sorted(M.kinds)

return M
