--- What a runbook works with: where the cluster is, its catalog, the agents of its hosts.
local agents = require("lib.agents")
local catalog = require("lib.catalog")
local finally = require("lib.finally")
local home = require("lib.home")
local mr = require("moonrise")

local M = {}

local Session = {}
Session.__index = Session

---@class Session
---@field env table lib/home.lua's answer
---@field cat table lib/catalog.lua's object
---@field agents table lib/agents.lua's set

--- Opens a session from a command's options (-d and the environment).
---@param options table
---@return Session? session
---@return Error? err
function M.open(options)
    local env, err = home.find(options)
    if not env then
        return nil, err
    end
    local cat
    cat, err = catalog.open(env, { timeout_ms = 5000, reopens = true })
    if not cat then
        return nil, mr.error(err.code, err.message, { cause = err, sqlstate = err.sqlstate,
            hint = err.hint or "a cluster that is stopped is started by moonrise start" })
    end
    return setmetatable({ env = env, cat = cat, agents = agents.new(env) }, Session)
end

--- Closes the catalog's session and ends the agents.
function Session:close()
    self.cat:close()
    self.agents:close()
end

--- Runs fn(session) and closes it whatever happens.
---@param options table
---@param fn function
---@return any ... what fn returned, or nil, err
function M.with(options, fn)
    local session, err = M.open(options)
    if not session then
        return nil, err
    end
    return finally(function()
        session:close()
    end, fn, session)
end

return M
