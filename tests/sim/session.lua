--- What lib/catalog.lua is in a simulated process: a session with the model of the catalog.
local cluster = require("lib.cluster")
local copy = require("tests.lib.copy")
local real = require("moonrise")

local M = {}

local Session = {}
Session.__index = Session

local LOST_MS = 4000

local function error_of(problem)
    if type(problem) == "table" then
        return real.error(problem.code, problem.text, { sqlstate = problem.sqlstate })
    end
    error(problem, 0)
end

-- Has fn(catalog) run on the other side, some time from now; its answer comes some time later, or
-- never.
local function ask(self, fn)
    local world = self.world
    if not self.open then
        return nil, real.error("connect", "the session is closed")
    end
    local lost = world.dice:number(1) < world.faults.statement and world.dice:number(1) or nil
    local value, err = self.mr.await(LOST_MS, function(answer)
        world.clock:after(world:statement_ms(), function()
            self.catalog:expire()
            if not self.open or not self.catalog:reached(self) or (lost and lost < 0.5) then
                return
            end
            self.used = world.clock.now
            local ok, result = pcall(fn, self.catalog)
            self.catalog:write()
            if not lost then
                world.clock:after(world:statement_ms(), function()
                    answer(ok and { value = result } or nil, not ok and result or nil)
                end)
            end
        end)
    end)
    if value then
        return value.value
    elseif err.text then
        return nil, error_of(err)
    elseif type(err) == "string" then
        world:fault(err)
    end
    self:close()
    return nil, real.error("connect", "the session was lost")
end

function Session:call(fn, ...)
    local given = { n = select("#", ...), ... }
    return ask(self, function(catalog)
        return catalog:call(self, fn, unpack(given, 1, given.n))
    end)
end

function Session:query(sql)
    return ask(self, function(catalog)
        if sql:find("json_build_object", 1, true) then
            return { { snapshot = catalog:snapshot(self) } }
        elseif sql:find("shutdown_end", 1, true) then
            return catalog:promise()
        elseif sql:find("role_epoch > 0", 1, true) then
            return {}
        end
        error("the simulated catalog does not know: " .. sql)
    end)
end

function Session:instances()
    return ask(self, function(catalog)
        return catalog:instances()
    end)
end

function Session:pair(content)
    local instances, err = self:instances()
    return instances and cluster.pair(instances, content), err
end

function Session:pair_state()
    return ask(self, function(catalog)
        return copy(catalog.pair)
    end)
end

function Session:leases()
    return ask(self, function(catalog)
        local lease = catalog.lease
        return lease and { {
            content = catalog.pair.content, token = lease.token, holder = lease.holder,
            intent = lease.intent, step = lease.step,
            expired = lease.expires <= catalog.world.clock.now,
        } } or {}
    end)
end

function Session:end_lease(token, heir, ttl, gone)
    return ask(self, function(catalog)
        return catalog:call(self, "lease_drop",
            catalog:call(self, "lease_inherit", token, heir, ttl, gone))
    end)
end

-- Nobody is recovered to another place here.
function Session:left_places()
    return {}
end

function Session:busy_places()
    return {}
end

function Session:state()
    return { config = nil, sysid = "7" }
end

function Session:journal()
    return true
end

function Session:is_open()
    return self.open
end

function Session:close()
    self.open = false
    if self.catalog.holder == self then
        self.catalog.holder = nil
    end
end

--- The module for a process.
---@param process table
---@return table module with open, as lib/catalog.lua's
function M.module(process)
    local module = {}
    function module.open()
        local world = process.world
        local catalog = world:reach_catalog()
        if not catalog then
            process.mr.sleep(5)
            return nil, real.error("connect", "no coordinator answers")
        end
        local self = setmetatable({ world = world, mr = process.mr, open = true, catalog = catalog,
            used = world.clock.now, life = catalog.life,
            server_life = catalog.server and catalog.server.life }, Session)
        process:on_end(function()
            world.clock:after(1 + world.dice:number(20), function()
                self:close()
            end)
        end)
        return self
    end
    return module
end

return M
