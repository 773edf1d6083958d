--- The agents of the cluster's hosts: one per host, started when it is first needed.
local cluster = require("lib.cluster")
local merged = require("lib.merged")
local mr = require("moonrise")

local M = {}

local Set = {}
Set.__index = Set

--- Where each order stands inside its epoch: a later one of the same epoch has a higher step.
M.steps = {
    initdb = 0, adopt = 1, name = 10, arm = 20, slot = 25, release = 30, checkpoint = 35,
    fence = 40, stop = 45, mark = 50, promote = 60, recover = 70, configure = 80, follow = 85,
    start = 90, remove_datadir = 95,
    disown = 96, bar = 97,
}

-- For an answer that needs no disk.
local HELLO_MS = 3000
-- How long ssh may take to start an agent.
local CONNECT_MS = 10000
-- A host that was not to be reached is not tried again for each instance on it.
local AGAIN_MS = 1500

local LOCAL = { localhost = true, ["127.0.0.1"] = true, ["::1"] = true }

--- Whether a name means on each host that host itself.
---@param host string
---@return boolean
function M.is_loopback(host)
    return LOCAL[host] or false
end

--- Whether a host is this one.
---@param host string
---@return boolean
function M.is_local(host)
    return LOCAL[host] or host == mr.whoami().hostname
end

--- Whether two names are those of one host, as far as this one can tell.
---@param a string
---@param b string
---@return boolean
function M.same_host(a, b)
    return a == b or (M.is_local(a) and M.is_local(b))
end

--- A set of agents. `env` says how they speak to the instances: bin, user, passfile.
---@param env {bin: string, user: string, passfile: string}
---@return table set
function M.new(env)
    return setmetatable({ env = env, open = {}, failed = {} }, Set)
end

-- What is said of a host that cannot be reached, whatever the reason; it is kept for a moment.
local function unreachable(set, host, err)
    err = mr.error("connect", ("the agent of host %s: %s"):format(host, err.message),
        { hint = err.hint, cause = err })
    set.failed[host] = { err = err, till = mr.clock() + AGAIN_MS }
    return nil, err
end

local function again(host)
    return ("run the command again once host %s answers"):format(host)
end

-- Whoever waits for an answer does not know the host that has fallen silent.
local function lost(host, err)
    return mr.error("connect", ("the agent of host %s: %s"):format(host, err.message),
        { cause = err, hint = err.hint or again(host) })
end

-- All who need a host wait for the same attempt to reach it.
local function awaited(set, host, agent, timeout_ms)
    if M.is_local(host) then
        return agent -- a child, which needs no waiting for
    end
    local patience_ms = math.min(timeout_ms or CONNECT_MS, CONNECT_MS)
    local ok, err = agent:ready(patience_ms)
    if ok then
        return agent
    elseif err.code == "cancelled" then
        return nil, err
    elseif err.code == "timeout" then
        err = mr.error("timeout", ("it has not answered within %g s"):format(patience_ms / 1000),
            { cause = err, hint = again(host) })
    end
    return unreachable(set, host, err)
end

local function agent_of(set, host, timeout_ms)
    local agent, failed, err = set.open[host], set.failed[host]
    if agent and agent:is_open() then
        return awaited(set, host, agent, timeout_ms)
    elseif failed and mr.clock() < failed.till then
        return nil, failed.err
    end
    set.failed[host] = nil
    if M.is_local(host) then
        -- The host is there for who looks at the list of processes.
        agent, err = mr.agent({ argv = { mr.executable, "agent", host } })
    else
        agent, err = mr.agent({ host = host, connect_ms = CONNECT_MS })
    end
    if not agent then
        return unreachable(set, host, err)
    end
    -- Somebody else may have started one while this task waited.
    local other = set.open[host]
    if other and other:is_open() then
        agent:close()
        agent = other
    end
    set.open[host] = agent
    return awaited(set, host, agent, timeout_ms)
end

--- Calls an operation of a host's agent.
---@param host string
---@param op string
---@param args? table
---@param options? {timeout_ms: number?, progress: function?}
---@return table? result
---@return Error? err code "connect" when the host cannot be reached
function Set:call(host, op, args, options)
    local agent, err = agent_of(self, host, options and options.timeout_ms)
    if not agent then
        return nil, err
    end
    local result
    result, err = agent:call(op, args or {}, options)
    if not result and err.code == "connect" and not agent:is_open() then
        return nil, lost(host, err)
    end
    return result, err
end

local function about(set, inst, args)
    return merged({
        datadir = inst.datadir, port = inst.port, bin = set.env.bin, user = set.env.user,
        passfile = set.env.passfile,
    }, args)
end

local function named(inst, err)
    if err and not err.instance then
        err = mr.error(err.code, err.message, {
            hint = err.hint, cause = err.cause, sqlstate = err.sqlstate,
            instance = cluster.name(inst) })
    end
    return nil, err
end

-- Calls an operation on an instance; an error names it.
local function ask(set, inst, op, args, options)
    local result, err = set:call(inst.hostname, op, args, options)
    if not result then
        return named(inst, err)
    end
    return result
end

--- Asks something of an instance that is no order (include/moonrise/agent/agent.h).
---@param inst table
---@param op string
---@param args table
---@param options? {timeout_ms: number?}
---@return table? answer
---@return Error? err
function Set:ask(inst, op, args, options)
    return ask(self, inst, op, about(self, inst, args), options)
end

--- Asks the host's word about an instance (include/moonrise/agent/agent.h, inspect).
---@param inst table
---@param args? {measure: boolean?, try: boolean?}
---@param options? table
---@return table? word
---@return Error? err
function Set:inspect(inst, args, options)
    local full = about(self, inst, args)
    full.dbid, full.content = inst.dbid, inst.content
    return ask(self, inst, "inspect", full, options)
end

--- Reads one of an instance's files (agent.h, read).
---@param inst table
---@param name string
---@return {text: string}? file
---@return Error? err
function Set:read(inst, name)
    return ask(self, inst, "read", about(self, inst, { name = name }))
end

--- Asks a host about a name, and whether a server could listen there (agent.h, address).
---@param host string
---@param address string
---@param port? integer
---@return {known: boolean, free: boolean?, why: string?}? answer
---@return Error? err
function Set:address(host, address, port)
    return self:call(host, "address", { address = address, port = port }, { timeout_ms = 10000 })
end

--- Asks which checkpoint an instance's WAL holds at a position (agent.h, history).
---@param inst table
---@param at {checkpoint: string, position: string?} of its mirror: LSNs of its last checkpoint, and of
--- the end of what it has
---@param options? {timeout_ms: number?}
---@return {known: boolean, checkpoint_sum: string?, ends_before: boolean?, epoch: integer?}? answer
---@return Error? err
function Set:history(inst, at, options)
    return ask(self, inst, "history", about(self, inst, at), options)
end

--- Asks whether an instance's data directory can be written (agent.h, disk).
---@param inst table
---@param options? table
---@return {writable: boolean, disk_error: string?}? answer
---@return Error? err code "timeout" when the disk hangs, "connect" when its agent does
function Set:disk(inst, options)
    local agent, answer, err
    agent, err = agent_of(self, inst.hostname, options and options.timeout_ms)
    if agent then
        answer, err = agent:call("disk", about(self, inst), options)
    end
    if err and err.code == "timeout"
        and not agent:call("hello", {}, { timeout_ms = HELLO_MS }) then
        err = mr.error("connect", ("the agent of host %s does not answer"):format(inst.hostname),
            { cause = err, hint = "see what the process `moonrise agent` there waits for" })
    end
    if not answer then
        return named(inst, err)
    end
    return answer
end

--- Has an instance read its configuration files again, over its socket: also one that cannot be
--- reached over the network, since its certificate has expired.
---@param inst table
---@param options? table
---@return table? result
---@return Error? err
function Set:reload(inst, options)
    return ask(self, inst, "reload", about(self, inst), options)
end

--- Asks for an instance's configuration, where that is not among its data (agent.h, configuration).
---@param inst table
---@return {config: string?, hba: string?, ident: string?, tls: table?}? files
---@return Error? err
function Set:configuration(inst)
    return ask(self, inst, "configuration", about(self, inst))
end

--- Gives an order. `args.epoch` is required, `args.step` is the operation's own unless given.
---@param inst table
---@param op string
---@param args table
---@param options? {timeout_ms: number?, progress: function?}
---@return table? result
---@return Error? err code "stale" when the instance has seen a newer order
function Set:order(inst, op, args, options)
    if not args.epoch then
        error(("order %s of dbid %d has no epoch"):format(op, inst.dbid), 2)
    end
    local full = about(self, inst, args)
    full.dbid, full.content, full.role = inst.dbid, inst.content, inst.role
    full.step = args.step or M.steps[op] or error("there is no order " .. op, 2)
    return ask(self, inst, op, full, options)
end

--- Ends all agents and with them all their work.
function Set:close()
    for _, agent in pairs(self.open) do
        agent:close()
    end
    self.open = {}
end

return M
