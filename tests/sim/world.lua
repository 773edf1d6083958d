--- A simulated cluster of one pair: two servers, the catalog, two watchers, clients, an operator,
--- and what goes wrong. The watchers and the runbooks are moonrise's own code.
local agents = require("tests.sim.agents")
local catalog = require("tests.sim.catalog")
local clock = require("tests.sim.clock")
local connection = require("tests.sim.connection")
local engine = require("tests.sim.engine")
local probes = require("tests.sim.probes")
local process = require("tests.sim.process")
local promise = require("tests.sim.promise")
local server = require("tests.sim.server")
local session = require("tests.sim.session")

local M = {}

local World = {}
World.__index = World

local packaged = dofile("policies/failover.lua").decide

-- A policy without patience or sense: whatever it says, the promise holds.
local function rash(facts)
    if facts.state == "primary_lost" or facts.state == "double_fault" then
        return { action = "promote", reason = "at once" }
    elseif facts.state == "mirror_lost" then
        return { action = "release", reason = "at once" }
    end
    return packaged(facts)
end

local function nothing()
    return ""
end

-- What programs have that says and remembers, and decides nothing.
local function around(of)
    local journal = {}
    function journal.open()
        local self = {}
        function self.add(_, kind, entry)
            of.world:trace("%s journal %s %s", of.name, kind, entry.text or "")
            if kind == "fault" then
                of.world:fault(entry.text)
            end
        end
        self.load, self.close = nothing, nothing
        return self
    end
    local policy = { configured = nothing }
    function policy.open()
        local self = { close = nothing }
        function self.ask(_, _, facts)
            return (of.world.rash and rash or packaged)(facts), { file = "sim" }
        end
        return self
    end
    return {
        ["lib.agents"] = agents.module(of), ["lib.catalog"] = session.module(of),
        ["lib.journal"] = journal, ["lib.policy"] = policy,
        ["lib.term"] = setmetatable({}, { __index = function() return nothing end }),
        ["lib.fdw"] = { point = function() return 0 end, cancel_hanging = function() return 0 end,
                        follow = function() return true end },
        ["lib.home"] = { state_dir = nothing },
        ["lib.config"] = { parse = function() end },
    }
end

--- A process in which moonrise's own modules can be loaded: process.mr and process.load(name).
---@param name string
---@return table process
function World:process(name)
    local of = process.new(self, name)
    of.mr = engine.new(of, connection.connector(of))
    local given = around(of)
    given.moonrise = of.mr
    of.load = process.loader(given)
    self.alive[of.pid] = true
    of:on_end(function()
        self.alive[of.pid] = nil
    end)
    if self.mutate then
        self.mutate(of.load)
    end
    return of
end

--- A message of what went on, kept for who wants to know.
function World:trace(text, ...)
    if self.story then
        table.insert(self.story, ("%9.1f "):format(self.clock.now) .. text:format(...))
    end
end

--- Something in the simulation or in the code raised what nobody caught.
function World:fault(text)
    self.broken = self.broken or tostring(text)
end

--- Something was recorded: what was to happen at that moment happens, before anybody hears of it.
function World:moment(kind)
    local waiting = self.moments[kind] or {}
    self.moments[kind] = nil
    for _, fn in ipairs(waiting) do
        fn()
    end
end

--- Has fn() called when this is recorded next.
function World:at(kind, fn)
    self.moments[kind] = self.moments[kind] or {}
    table.insert(self.moments[kind], fn)
end

--- Has fn() called in a process after the usual time. At times it is late: by seconds, or until the
--- pair is recorded as in sync again, which is when a late order does the most harm.
---@param of table the process, or the clock
---@param late number how often it is late, 0 to 1
---@param usual_ms number
---@param fn function
---@return table message message.off = true withdraws it
function World:deliver(of, late, usual_ms, fn)
    self.messages = (self.messages or 0) + 1
    local message, chance = { number = self.messages }, self.dice:number(1)
    local function arrive()
        if not message.off then
            fn(message)
        end
    end
    if chance < late / 2 then
        self:at("in_sync", function()
            of:after(self.dice:number(300), arrive)
        end)
    else
        of:after(chance < late and self.dice:number(20000) or usual_ms, arrive)
    end
    return message
end

--- Whether nothing reaches this instance's host but its peer and its clients.
---@param dbid integer
---@return boolean
function World:apart(dbid)
    return self.parted == dbid or self.away[dbid] == true
end

--- The name of a mirror's receiver that nothing waits for.
---@param dbid integer
---@return string
function World:bare_name(dbid)
    return ("mr_%s_%d"):format(self.content < 0 and "c" or self.content, dbid)
end

function World:statement_ms()
    return self.dice:number(1) < self.faults.slow and self.dice:number(2500)
        or 0.3 + self.dice:number(3)
end

--- The catalog that a new session comes to: that of a coordinator that serves.
---@return table? catalog
function World:reach_catalog()
    if self.content >= 0 then
        return self.catalog
    end
    local first = self.dice:number(1) < 0.5 and 2 or 3
    for _, dbid in ipairs({ first, 5 - first }) do
        local there, coordinator = self.catalogs[dbid], self.servers[dbid]
        if there and coordinator:accepts() and coordinator:writable() and coordinator.listen
            and not self:apart(dbid) then
            return there
        end
    end
end

local env = { name = "sim", user = "moonrise", bin = "/bin", passfile = "/pass" }

--- Starts a watcher.
---@return table process
function World:watcher()
    self.watched = (self.watched or 0) + 1
    local of = self:process("watcher " .. self.watched)
    of.mr.spawn(function()
        local w = of.load("lib.watcher").new(env, {})
        of.watcher = w
        w:run()
    end)
    return of
end

--- Runs fn(load, ctx, mr) as a runbook does, in a process of its own.
---@param name string
---@param fn function
---@param without_catalog? boolean whether it runs where no catalog can be reached, too
---@return table process process.over when it has ended
function World:runbook(name, fn, without_catalog)
    local of = self:process(name)
    of.mr.spawn(function()
        local cat, err = of.load("lib.catalog").open(env)
        local ctx = { env = env, cat = cat, agents = of.load("lib.agents").new(env), sysid = "7",
                      content = self.content }
        local ok, result = true, nil
        if cat or without_catalog then
            ok, result, err = pcall(fn, of.load, ctx, of.mr)
        end
        if not ok then
            self:fault(result)
        end
        self:trace("%s ended: %s %s", name, tostring(result), tostring(err))
        if cat then
            cat:close()
        end
        of.over = true
        of:kill()
    end)
    return of
end

--- A world of its own.
---@param options {dice: table, content: integer?, rules: table?, mutate: function?,
---  faults: table?, story: boolean?, version: integer?}
---@return table world
function M.new(options)
    local self = setmetatable({
        clock = clock.new(), dice = options.dice, probes = probes, hosts = {}, alive = {},
        mutate = options.mutate, moments = {}, story = options.story and {} or nil,
        away = {}, content = options.content or 0, version = options.version or 150020,
        rash = options.dice:number(1) < 0.4,
        faults = options.faults or { statement = 0.003, slow = 0.004, late = 0.05 },
        rules = setmetatable(options.rules or {}, { __index = function() return true end }),
    }, World)
    self.promise = promise.new(self)
    self.catalog = catalog.new(self)
    self.servers = { [2] = server.new(self, 2), [3] = server.new(self, 3) }
    self.servers[3].standby, self.servers[3].stream_name = true, self:bare_name(3)
    self.servers[2].slots[3] = true
    self.servers[2]:start(true)
    self.servers[3]:start(true)
    return self
end

return M
