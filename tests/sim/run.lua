--- One simulated life of a pair: faults from a seed, then peace, then the bill.
local clients = require("tests.sim.clients")
local dice = require("tests.lib.dice")
local faults = require("tests.sim.faults")
local operator = require("tests.sim.operator")
local world_of = require("tests.sim.world")

local M = {}

local TROUBLE_MS, PEACE_MS, LOOK_MS = 90000, 600000, 2000
-- What hangs goes on by itself within that time; it need not when nothing is left to be done.
local LINGER_MS, SETTLED_MS = 60000, 10000
-- Nobody starts the same again and again: between two starts the watcher has its time.
local START_AGAIN_MS = 20000

local function healthy(world)
    local row = world.catalog:instance("m")
    local primary = world.servers[world.catalog:instance("p").dbid]
    return row.mode == "s" and row.status == "u" and primary:running() and not primary.in_recovery
        and primary.flag and not world.catalog.lease and not world.catalog.pair.unconfirmed
end

-- It takes a person to say which of the two is the primary, when no host can prove it.
local function undecided(world)
    return world.catalog.pair.unconfirmed ~= nil
        and world.clock.now > TROUBLE_MS + 2 * LINGER_MS
end

-- Somebody does what `state` would tell him to do.
local function mend(world)
    local primary = world.servers[world.catalog:instance("p").dbid]
    if world.busy and world.busy.alive then
        return
    elseif not primary.up and (world.catalog:instance("p").mode == "n"
        or world.clock.now > TROUBLE_MS + LINGER_MS)
        and world.clock.now > (world.started_at or -START_AGAIN_MS) + START_AGAIN_MS then
        world.busy, world.started_at = world:runbook("start", operator.start), world.clock.now
    elseif world.catalog:instance("m").status == "d" then
        world.busy = world:runbook("recover", operator.recover)
    end
end

-- All that hangs goes on.
local function calm(world)
    world.cut, world.slow, world.parted = false, false, nil
    world.cut_at = world.clock.now
    world.catalog:pause(false)
    for _, server in pairs(world.servers) do
        server:thaw()
        server:resume()
        server:own_names("")
    end
    for i, of in ipairs(world.watchers) do
        of:continue()
        if not of.alive then
            world.watchers[i] = world:watcher()
        end
    end
end

local function begin(options)
    local world = world_of.new(options)
    world.watchers = { world:watcher(), world:watcher() }
    clients.writer(world)
    clients.writer(world)
    clients.reader(world, world.servers[2])
    clients.reader(world, world.servers[3])
    if options.ordeal then
        world:at("in_sync", function()
            faults.ordeals[options.ordeal](world)
        end)
    end
    faults.begin(world, TROUBLE_MS)
    return world
end

--- Lives through a seed.
---@param seed integer
---@param options? table as tests/sim/world.lua's; `ordeal`: one of tests/sim/faults.lua's, once the
--- pair is in sync
---@return string? broken what went wrong: the promise, or a fault of the code
---@return table world
function M.life(seed, options)
    options = options or {}
    options.dice = dice.new(seed)
    local world = begin(options)
    local function wrong()
        return world.promise.broken or world.broken
    end
    local since
    while world.clock.now < TROUBLE_MS + LINGER_MS and not wrong() do
        world.clock:run(world.clock.now + LOOK_MS + world.dice:number(8000))
        mend(world)
        local well = world.clock.now > TROUBLE_MS and healthy(world)
        since = well and (since or world.clock.now) or nil
        if since and world.clock.now - since > SETTLED_MS then
            break
        end
    end
    local peace = world.clock.now + PEACE_MS
    while world.clock.now < peace and not wrong() and not healthy(world)
        and not undecided(world) do
        calm(world)
        mend(world)
        world.clock:run(world.clock.now + LOOK_MS)
    end
    world.quiet = true
    if not wrong() and not undecided(world) and not healthy(world) then
        return "the pair is not in sync again", world
    elseif not wrong() and healthy(world) then
        world.clock:run(world.clock.now + 5000)
        world.promise:check(world.servers[world.catalog:instance("p").dbid], "in the end")
    end
    return wrong(), world
end

return M
