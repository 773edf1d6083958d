--- What lib/agents.lua is in a simulated process: orders that travel, wait for the instance's lock,
--- are compared with its epoch, and are carried out in steps between which anything may happen.
local engine = require("tests.sim.engine")
local orders = require("tests.sim.orders")
local process = require("tests.sim.process")
local real = require("moonrise")

local M = {}

local Set = {}
Set.__index = Set

local STEPS = process.loader({ moonrise = real })("lib.agents").steps
local LOCK_MS, LOST_MS = 15000, 60000

local records = require("tests.sim.records")
local refuse = orders.refuse

local function order_text(claim)
    return ("%s of epoch %d step %d"):format(claim.op, claim.epoch, claim.step)
end

local function newer(a, b)
    return a.epoch > b.epoch or (a.epoch == b.epoch and a.step > b.step)
end

local function lock(host, server, claim)
    local until_ms = host.world.clock.now + LOCK_MS
    while server.locked and server.locked.host.alive do
        local holder = server.locked.claim
        if newer(holder, claim) then
            refuse("stale", "%s is being carried out", order_text(holder))
        elseif host.world.clock.now > until_ms then
            refuse("busy", "%s is being carried out", order_text(holder))
        end
        host.mr.sleep(10)
    end
    server.locked = { host = host, claim = claim }
end

local function unlock(server, claim)
    if server.locked and server.locked.claim == claim then
        server.locked = nil
    end
end

local function compare(server, claim)
    local last = server.epoch
    if not last.valid then
        refuse("refused", "no valid epoch file")
    elseif claim.op == "bar" and claim.epoch == last.barred then
        return
    elseif server.world.rules.epochs and claim.epoch <= last.barred then
        refuse("stale", "%s comes too late: all up to epoch %d are barred", order_text(claim),
            last.barred)
    elseif server.world.rules.epochs and not newer(claim, last) and not (claim.epoch == last.epoch
        and claim.step == last.step and claim.op == last.order) then
        refuse("stale", "%s comes too late: the last was %s of epoch %d", order_text(claim),
            last.order, last.epoch)
    end
    if claim.op ~= "bar" then
        last.epoch, last.step, last.order, last.barred = claim.epoch, claim.step, claim.op, 0
    end
end

local function carry_out(host, server, claim, args)
    lock(host, server, claim)
    compare(server, claim)
    function host.unlock()
        unlock(server, claim)
    end
    local result, problem = orders.ops[claim.op](host, server, claim, args)
    if not result then
        refuse("refused", "%s", problem)
    end
    return result
end

-- Has fn(host) run by an agent on the instance's host; what it gives comes back, unless the agent
-- dies. What is never answered shows as a session that is lost, long before a measurement is given
-- up.
local function travel(self, server, timeout_ms, fn)
    local world = self.process.world
    local value, err = self.process.mr.await(math.min(timeout_ms, LOST_MS), function(answer)
        world:deliver(world.clock, world.faults.late, 0.5 + world.dice:number(10), function()
            if world:apart(server.dbid) then
                return
            end
            local host = process.new(world, "agent")
            host.server = server
            world.hosts[host.pid] = host
            host.mr = engine.new(host)
            host:on_end(function()
                world.hosts[host.pid] = nil
                answer(nil, { code = "connect", text = "the agent is gone" })
            end)
            host.mr.spawn(function()
                local ok, result = pcall(fn, host)
                world.hosts[host.pid] = nil
                world.clock:after(world:statement_ms(), function()
                    answer(ok and result or nil, not ok and result or nil)
                end)
            end)
        end)
    end)
    if not value and type(err) == "string" then
        world:fault(err)
        err = { code = "system", text = err }
    end
    return value, err and err.text and real.error(err.code, err.text) or err
end

function Set:order(inst, op, args, options)
    local server = self.process.world.servers[inst.dbid]
    local claim = { op = op, epoch = args.epoch, step = args.step or STEPS[op], role = inst.role }
    self.process.world:trace("order %s dbid %d epoch %d", op, inst.dbid, args.epoch)
    self.process.world:moment("order_" .. op)
    local timeout = options and options.timeout_ms
    return travel(self, server, timeout and timeout > 0 and timeout or LOST_MS, function(host)
        local ok, result = pcall(carry_out, host, server, claim, args)
        unlock(server, claim)
        if not ok then
            error(result, 0)
        end
        return result
    end)
end

function Set:inspect(inst, _, options)
    local server = self.process.world.servers[inst.dbid]
    local word, err = travel(self, server, options and options.timeout_ms or 3000, function()
        return orders.word_of(server)
    end)
    if not word then
        server.silent_at = server.world.clock.now
    end
    return word, err
end

function Set:history(inst, at, options)
    local server = self.process.world.servers[inst.dbid]
    return travel(self, server, options and options.timeout_ms or 3000, function()
        return orders.history_of(server, at.checkpoint)
    end)
end

-- Each has its configuration among its data.
function Set:configuration(inst)
    return travel(self, self.process.world.servers[inst.dbid], 3000, function()
        return {}
    end)
end

-- The host of an instance bears its dbid.
function Set:call(host, op, args)
    local world = self.process.world
    local server = world.servers[tonumber(host:match("%d+$"))]
    return travel(self, server, 3000, function()
        return records[op](world.records_of, host, args)
    end)
end

function Set:disk(inst)
    return travel(self, self.process.world.servers[inst.dbid], 3000, function()
        return { writable = true }
    end)
end

function Set.close() end

--- The module for a process.
---@param of table the process
---@return table module as lib/agents.lua's
function M.module(of)
    return {
        steps = STEPS,
        new = function()
            return setmetatable({ process = of }, Set)
        end,
        is_local = function()
            return true
        end,
        same_host = function()
            return true
        end,
    }
end

return M
