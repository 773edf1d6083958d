--- A server's superuser, by the agent of its host: the server lets the user who owns it in over its
--- socket, and nobody from afar.
local merged = require("lib.merged")

local M = {}

local Superuser = {}
Superuser.__index = Superuser

local ANSWER_MS = 10000
-- The agent's answer comes after the server's.
local GRACE_MS = 5000

--- A way to a database of an instance. Nothing is connected yet: each call is a session of its own.
---@param agents table lib/agents.lua's set
---@param inst table
---@param dbname string
---@param who? {user: string?, passfile: string?} default: the user who runs the agent, by peer
---@return Superuser
function M.of(agents, inst, dbname, who)
    who = who or {}
    return setmetatable({ agents = agents, inst = inst,
        args = { dbname = dbname, user = who.user or "", passfile = who.passfile or "" } },
        Superuser)
end

local function call(self, more, options)
    local timeout_ms = options and options.timeout_ms or ANSWER_MS
    local answer, err = self.agents:ask(self.inst, "sql",
        merged({ wait_ms = timeout_ms }, self.args, more),
        { timeout_ms = timeout_ms + GRACE_MS })
    if not answer then
        return nil, err
    end
    return answer.rows or {}
end

--- Runs a statement; its commit waits for nobody.
---@param sql string
---@param params? (string|number)[]
---@param options? {timeout_ms: number?}
---@return table[]? rows as Conn:query's
---@return Error? err
function Superuser:query(sql, params, options)
    local texts = {}
    for i, value in ipairs(params or {}) do
        texts[i] = tostring(value)
    end
    return call(self, { statements = { sql }, params = #texts > 0 and texts or nil }, options)
end

--- Runs statements one after another, in one session.
---@param statements string[]
---@return table[]? rows of the last one
---@return Error? err of the first that failed: none after it was run
function Superuser:run(statements)
    return call(self, { statements = statements })
end

return M
