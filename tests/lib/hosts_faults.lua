--- Faults of test hosts and of the links between them, for the dice (tests/lib/dice.lua): each
--- kind takes the world and gives what takes it back. A world is {lab, cluster, dice, names: the
--- hosts of the cluster, coordinator: that of them where moonrise runs}.
---
---     local undo = hosts_faults.kinds.cut(world)
---     undo()

local hurt = require("tests.lib.hurt")
local sorted = require("tests.lib.sorted")

local M = {}

local function host(world)
    return world.dice:pick(world.names)
end

local function another(world, than)
    local name
    repeat
        name = host(world)
    until name ~= than
    return name
end

local function two(world)
    local a = host(world)
    return a, another(world, a)
end

-- One that may be away without taking the coordinator and the watcher with it.
local function other(world)
    return another(world, world.coordinator)
end

local function instance(world)
    local rows = world.cluster:rows()
    return world.cluster:instance({ dbid = world.dice:pick(rows).dbid })
end

local function of_segment(world, role)
    return world.cluster:instance({ role = role,
        content = math.floor(world.dice:number(#world.cluster.config.segments)) })
end

M.kinds = {
    cut = function(world)
        return world.lab:cut(two(world))
    end,
    cut_one_way = function(world)
        local a, b = two(world)
        return world.lab:cut(a, b, { one_way = true })
    end,
    cut_port = function(world)
        local server = instance(world)
        return world.lab:cut(another(world, server.hostname), server.hostname,
            { port = tonumber(server.port) })
    end,
    cut_ssh = function(world)
        local a, b = two(world)
        return world.lab:cut(a, b, { port = 22 })
    end,
    isolate = function(world)
        return world.lab:isolate(host(world))
    end,
    bad_link = function(world)
        local a, b = two(world)
        return world.lab:link(a, b, { mbit_s = 20, delay_ms = 30, loss = 0.03 })
    end,
    power_off = function(world)
        local gone = world.lab[other(world)]
        gone:power_off()
        return function()
            gone:power_on()
        end
    end,
    power_cycle = function(world)
        local gone = world.lab[host(world)]
        gone:power_off()
        gone:power_on()
        return function() end
    end,
    freeze_sshd = function(world)
        return world.lab[other(world)]:freeze_sshd()
    end,
    kill_primary = function(world)
        of_segment(world, "p"):kill()
        return function() end
    end,
    kill_mirror = function(world)
        of_segment(world, "m"):kill()
        return function() end
    end,
    freeze_primary = function(world)
        return hurt.stop_tree(of_segment(world, "p"))
    end,
    kill_watcher = function(world)
        world.cluster.watcher:kill("KILL")
        return function() end
    end,
}

--- The names of all kinds, in a fixed order, for the dice.
M.names = sorted(M.kinds)

return M
