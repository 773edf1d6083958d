--- What goes wrong in a simulated cluster, and when, by the dice.
local operator = require("tests.sim.operator")
local receiver = require("tests.sim.receiver")
local sorted = require("tests.lib.sorted")

local M = {}

local function primary(world)
    return world.servers[world.catalog:instance("p").dbid]
end

local function mirror(world)
    return world.servers[world.catalog:instance("m").dbid]
end

local function later(world, most_ms, fn)
    world.clock:after(world.dice:number(most_ms), fn)
end

local function one_of(world)
    return world.dice:number(1) < 0.6 and primary(world) or mirror(world)
end

-- Which watcher: mostly the one that acts.
local function watcher(world)
    for i, of in ipairs(world.watchers) do
        if of.watcher and of.watcher:leads() and world.dice:number(1) < 0.7 then
            return i
        end
    end
    return math.floor(world.dice:number(2)) + 1
end

local function for_a_while(what)
    return function(world)
        world[what] = true
        later(world, 20000, function()
            world[what], world[what .. "_at"] = false, world.clock.now
        end)
    end
end

local function stop(world, of)
    of:stop()
    later(world, 60000, function()
        of:continue()
    end)
end

local function runbook(name)
    return function(world)
        local of = world:runbook(name, operator[name])
        if world.dice:number(1) < 0.4 then
            later(world, 1500, function()
                world:trace("kill -9 of %s", name)
                of:kill()
            end)
        elseif world.dice:number(1) < 0.2 then
            later(world, 1000, function()
                stop(world, of)
            end)
        end
    end
end

-- The coordinator's host is gone, often with one of the pair; its standby, which lacks the last
-- transitions, takes its place.
local function activate(world, missing)
    local chance = world.dice:number(1)
    if chance < 0.7 then
        local server = chance < 0.5 and primary(world) or mirror(world)
        server:kill()
    end
    world.catalog:activate(missing)
end

-- Transitions that mean most to whoever does not know of them.
local CHANGES = { "promote", "promoted", "mirror_down", "out_of_sync", "hand_over" }

--- What can happen, by name.
M.kinds = {
    kill = function(world)
        one_of(world):kill()
    end,
    kill_both = function(world)
        primary(world):kill()
        later(world, 50, function()
            mirror(world):kill()
        end)
    end,
    freeze = function(world)
        local server = one_of(world)
        server:freeze()
        later(world, 40000, function()
            server:thaw()
        end)
    end,
    kill_postmaster = function(world)
        one_of(world):kill_postmaster()
    end,
    power_off = function(world)
        local server = mirror(world)
        server:power_off()
        if world.dice:number(1) < 0.5 then
            later(world, 2000, function()
                server:started_by_somebody()
            end)
        end
    end,
    hang = function(world)
        local server = primary(world)
        server.deaf = server.up
        later(world, 30000, function()
            server.deaf = false
        end)
    end,
    part = function(world)
        local server = one_of(world)
        world.parted = server.dbid
        later(world, 40000, function()
            world.parted = nil
        end)
    end,
    pause_replay = function(world)
        local server = mirror(world)
        server:pause()
        later(world, 40000, function()
            server:resume()
        end)
    end,
    own_names = function(world)
        local server = mirror(world)
        server:own_names("nobody")
        later(world, 40000, function()
            server:own_names("")
        end)
    end,
    helper = function(world)
        receiver.helper(primary(world), world.dice:pick(mirror(world).known_names),
            world.dice:number(60000))
    end,
    cut = for_a_while("cut"),
    slow = for_a_while("slow"),
    somebody_starts = function(world)
        one_of(world):started_by_somebody()
    end,
    -- It is replaced while its host hears nothing of that, and its clients still know it.
    somebody_starts_the_old = function(world)
        local old = primary(world)
        world.parted = old.dbid
        old:kill()
        world:at("promoted", function()
            later(world, 5000, function()
                old:started_by_somebody()
            end)
        end)
        later(world, 60000, function()
            world.parted = nil
        end)
    end,
    somebody_restarts = function(world)
        local server = one_of(world)
        local excused = server.excused
        if server.up then
            server:kill()
            server:start(server.listen)
            server.excused = excused
        end
    end,
    somebody_starts_down = function(world)
        mirror(world):started_by_somebody()
    end,
    somebody_makes_a_standby = function(world)
        local server = mirror(world)
        if not server.up then
            server.standby = true
            server:started_by_somebody()
        end
    end,
    stop_watcher = function(world)
        stop(world, world.watchers[watcher(world)])
    end,
    kill_watcher = function(world)
        local i = watcher(world)
        world.watchers[i]:kill()
        later(world, 20000, function()
            world.watchers[i] = world:watcher()
        end)
    end,
    kill_agents = function(world)
        for _, host in pairs(world.hosts) do
            host:kill()
        end
    end,
    start = runbook("start"),
    recover = runbook("recover"),
    recover_again = runbook("recover"),
    hand_over = runbook("hand_over"),
    activation = function(world)
        activate(world, math.floor(world.dice:number(4)))
    end,
    activation_after = function(world)
        world:at(world.dice:pick(CHANGES), function()
            later(world, 400, function()
                activate(world, 1 + math.floor(world.dice:number(2)))
            end)
        end)
    end,
    pause = function(world)
        world.catalog:pause(true)
        later(world, 60000, function()
            world.catalog:pause(false)
        end)
    end,
}

-- What is recorded in the catalog, what is done to an instance, and orders on their way.
local AT = { "in_sync", "out_of_sync", "mirror_down", "mirror_up", "promote", "hand_over",
             "copying", "copied", "stopped", "promoted", "order_recover", "order_promote" }
-- What does most harm to an instance that does not run.
local DOWN = { copying = "somebody_makes_a_standby", copied = "power_off",
               stopped = "somebody_starts", order_recover = "somebody_starts_down",
               promote = "somebody_starts_down" }
-- Ends of what acts: between two of its steps.
local CRASHES = { "kill_watcher", "stop_watcher", "kill_agents", "activation" }

local sudden = sorted(M.kinds)

--- What only a life has that is asked for it: several things, each of which would rarely follow
--- the other by the dice.
M.ordeals = {
    -- The primary's host hears nothing of its end, somebody makes its successor a standby again,
    -- and the catalog loses all that it knew of that one.
    successor_made_a_standby = function(world)
        local old, new = primary(world), mirror(world)
        world.parted = old.dbid
        old:kill()
        world:at("promoted", function()
            world.clock:after(3000, function()
                new:kill()
                new.standby = true
                new:started_by_somebody()
                world:at("order_start", function()
                    world.clock:after(500, function()
                        world.catalog:activate(#world.catalog.kept)
                        old:started_by_somebody()
                        world.parted = nil
                    end)
                end)
            end)
        end)
    end,
}

-- At the very moment at which something is recorded, or just after.
function M.kinds.at_a_moment(world)
    local kind, name = world.dice:pick(AT), world.dice:pick(sudden)
    if DOWN[kind] and world.dice:number(1) < 0.5 then
        name = DOWN[kind]
    elseif world.dice:number(1) < 0.5 then
        name = world.dice:pick(CRASHES)
    end
    world:at(kind, function()
        later(world, world.dice:number(1) < 0.5 and 5 or 1000, function()
            world:trace("fault %s at %s", name, kind)
            M.kinds[name](world)
        end)
    end)
end

--- Has one thing after the other go wrong for so long.
---@param world table
---@param ms number
function M.begin(world, ms)
    local last = world.clock.now + ms
    local function turn()
        if world.clock.now > last then
            return
        end
        local name = world.dice:number(1) < 0.3 and "at_a_moment" or world.dice:pick(sudden)
        world:trace("fault %s", name)
        M.kinds[name](world)
        later(world, world.dice:number(1) < 0.3 and 400 or 6000, turn)
    end
    later(world, 5000, turn)
end

return M
