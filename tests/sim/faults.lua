--- What goes wrong in a simulated cluster, and when, by the dice.
local operator = require("tests.sim.operator")

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

local function watcher(world)
    return world.watchers[math.floor(world.dice:number(2)) + 1]
end

local function for_a_while(what)
    return function(world)
        world[what] = true
        later(world, 20000, function()
            world[what] = false
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
    cut = for_a_while("cut"),
    slow = for_a_while("slow"),
    somebody_starts = function(world)
        mirror(world):start(world.dice:number(1) < 0.5)
    end,
    stop_watcher = function(world)
        stop(world, watcher(world))
    end,
    kill_watcher = function(world)
        local i = math.floor(world.dice:number(2)) + 1
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
}

-- What is recorded in the catalog, and the middle of a copy.
local AT = { "in_sync", "out_of_sync", "mirror_down", "mirror_up", "promote", "hand_over",
             "copying" }

local function sorted(kinds)
    local names = {}
    for name in pairs(kinds) do
        table.insert(names, name)
    end
    table.sort(names)
    return names
end

local sudden = sorted(M.kinds)

-- At the very moment at which something is recorded, or just after.
function M.kinds.at_a_moment(world)
    local kind, name = world.dice:pick(AT), world.dice:pick(sudden)
    if kind == "copying" and world.dice:number(1) < 0.5 then
        name = "somebody_starts"
    end
    world:at(kind, function()
        later(world, world.dice:number(1) < 0.5 and 5 or 1000, function()
            world:trace("fault %s at %s", name, kind)
            M.kinds[name](world)
        end)
    end)
end
M.kinds.at_another_moment = M.kinds.at_a_moment

local names = sorted(M.kinds)

--- Has one thing after the other go wrong for so long.
---@param world table
---@param ms number
function M.begin(world, ms)
    local last = world.clock.now + ms
    local function turn()
        if world.clock.now > last then
            return
        end
        local name = world.dice:pick(names)
        world:trace("fault %s", name)
        M.kinds[name](world)
        later(world, world.dice:number(1) < 0.3 and 400 or 8000, turn)
    end
    later(world, 5000, turn)
end

return M
