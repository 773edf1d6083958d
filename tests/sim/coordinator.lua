--- One simulated life of the coordinator's pair (SAFETY.md, rule 8): its catalog lies in itself and
--- comes to its standby as WAL, three hosts keep their records of it, and hosts are cut off. The
--- watchers are moonrise's own code; a person activates the standby.
local activate = require("tests.sim.activate")
local activation = require("tests.sim.activation")
local catalog_of = require("tests.sim.catalog")
local clients = require("tests.sim.clients")
local dice = require("tests.lib.dice")
local faults = require("tests.sim.faults")
local operator = require("tests.sim.operator")
local server_of = require("tests.sim.server")
local sorted = require("tests.lib.sorted")
local world_of = require("tests.sim.world")

local M = {}

local TROUBLE_MS, LOOK_MS = 180000, 5000

-- The catalog in a server, with the row of an instance on the third host.
local function give(world, catalog, dbid)
    catalog.server = world.servers[dbid]
    catalog.other = { dbid = 4, content = 0, role = "p", preferred_role = "p", mode = "n",
                      status = "u", port = 6004, hostname = "h4", address = "localhost",
                      datadir = "/d4" }
    for _, row in pairs(catalog.rows) do
        row.hostname = "h" .. row.dbid
    end
    world.catalog, world.catalogs[dbid] = catalog, catalog
end

-- What the activated standby has of the catalog is what has come to it.
local function activated(world, dbid)
    local server, catalog = world.servers[dbid], catalog_of.new(world)
    for i = #server.wal, 1, -1 do
        if server.wal[i].catalog then
            activation.restore(catalog, server.wal[i].catalog)
            break
        end
    end
    give(world, catalog, dbid)
    catalog:take_over(dbid, server.epoch.epoch)
end

local function away(world, dbids, ms)
    for _, dbid in ipairs(dbids) do
        world.away[dbid] = true
    end
    world.clock:after(ms, function()
        for _, dbid in ipairs(dbids) do
            world.away[dbid] = nil
        end
    end)
end

local function activate_standby(world)
    world:runbook("activate", activate.runbook(world), true)
end

local kinds = {
    away = function(world)
        local dbid = 2 + math.floor(world.dice:number(3))
        away(world, { dbid }, world.dice:number(40000))
    end,
    -- Only the coordinator's own host is left, and comes away when the others are back.
    alone = function(world)
        local p, m = world.catalog:instance("p").dbid, world.catalog:instance("m").dbid
        local ms = 10000 + world.dice:number(30000)
        away(world, { m, 4 }, ms)
        world.servers[m]:kill()
        world.clock:after(ms, function()
            away(world, { p }, 30000)
            world.servers[p]:kill()
            world.clock:after(world.dice:number(3000), function()
                activate_standby(world)
            end)
        end)
    end,
    -- It ends at the moment at which it is released.
    ends_released = function(world)
        local p, m = world.catalog:instance("p").dbid, world.catalog:instance("m").dbid
        world.servers[m]:kill()
        world:at("order_release", function()
            world.clock:after(world.dice:number(400), function()
                for _, of in ipairs(world.watchers) do
                    of:stop()
                end
            end)
            world.clock:after(400 + world.dice:number(1500), function()
                world.servers[p]:kill()
                activate_standby(world)
            end)
            world.clock:after(20000, function()
                for _, of in ipairs(world.watchers) do
                    of:continue()
                end
            end)
        end)
    end,
    coordinator_ends = function(world)
        world.servers[world.catalog:instance("p").dbid]:kill()
        world.clock:after(world.dice:number(5000), function()
            activate_standby(world)
        end)
    end,
    activate = activate_standby,
}
for _, name in ipairs({ "kill", "freeze", "cut", "slow", "part", "stop_watcher", "kill_watcher",
                        "kill_agents", "recover", "kill_postmaster" }) do
    kinds[name] = faults.kinds[name]
end
local names = sorted(kinds)

local function trouble(world)
    local name = world.dice:pick(names)
    if world.clock.now < TROUBLE_MS then
        world:trace("fault %s", name)
        kinds[name](world)
        world.clock:after(1000 + world.dice:number(20000), function()
            trouble(world)
        end)
    end
end

-- Somebody starts what is down, and recovers a standby that is out.
local function mend(world)
    local p, m = world.catalog:instance("p"), world.catalog:instance("m")
    if world.busy and world.busy.alive then
        return
    elseif not world.servers[p.dbid].up then
        world.busy = world:runbook("start", operator.start_coordinator(p), true)
    elseif m.status == "d" then
        world.busy = world:runbook("recover", operator.recover)
    end
end

local function begin(options)
    local world = world_of.new(options)
    world.catalogs, world.records_of, world.activated = {}, {}, activated
    world.servers[4] = server_of.new(world, 4)
    world.servers[4]:start(true)
    give(world, world.catalog, 2)
    world.watchers = { world:watcher(), world:watcher() }
    clients.writer(world)
    clients.writer(world)
    world.clock:after(15000, function()
        trouble(world)
    end)
    return world
end

--- Lives through a seed.
---@param seed integer
---@param options? table as tests/sim/world.lua's
---@return string? broken what went wrong: the promise, or a fault of the code
---@return table world
function M.life(seed, options)
    options = options or {}
    options.dice, options.content = dice.new(seed), -1
    local world = begin(options)
    while world.clock.now < TROUBLE_MS and not world.promise.broken and not world.broken do
        world.clock:run(world.clock.now + LOOK_MS + world.dice:number(8000))
        mend(world)
    end
    if not world.promise.broken and not world.broken then
        world.promise:check(world.servers[world.catalog:instance("p").dbid], "in the end")
    end
    return world.promise.broken or world.broken, world
end

return M
