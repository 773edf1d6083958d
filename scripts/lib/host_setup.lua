--- What a host needs before it can bear instances of a cluster: PostgreSQL's programs, and the
--- password of role moonrise.
---
--- Both lie at the same path on every host. The servers of a cluster are one user's, as Greenplum's
--- are gpadmin's, and a mirror's primary_conninfo names the passfile of its own host.
local agents = require("lib.agents")
local mr = require("moonrise")

local M = {}

local ANSWER_MS = 15000
local LIMIT = 16

-- The error of each host that failed.
local function each(hosts, fn)
    local problems = {}
    for _, result in ipairs(mr.parallel(hosts, LIMIT, function(host)
        local ok, err = fn(host)
        return ok and { done = true }, err
    end)) do
        table.insert(problems, result.error)
    end
    return problems
end

local function on_host(host, err, hint)
    return mr.error(err.code, ("host %s: %s"):format(host, err.message),
        { cause = err, hint = err.hint or hint })
end

--- Asks each host for PostgreSQL's programs: one cluster has one version of them, at one place.
---@param set table lib/agents.lua's
---@param bin string
---@param hosts string[]
---@param version string what they say on this host
---@return Error[] problems
function M.check_programs(set, bin, hosts, version)
    return each(hosts, function(host)
        local answer, err = set:call(host, "programs", { bin = bin }, { timeout_ms = ANSWER_MS })
        if not answer then
            return nil, on_host(host, err, err.code ~= "connect"
                and ("install %s there, in %s"):format(version, bin) or nil)
        elseif answer.version ~= version then
            return nil, mr.error("version", ("host %s has %s in %s, this one has %s"):format(host,
                answer.version, bin, version),
                { hint = "install the same version on every host of a cluster" })
        end
        return true
    end)
end

--- Whether a mirror's host has the programs that its primary's has.
---@param ctx {env: Env, agents: table}
---@param pair {primary: table, mirror: table}
---@return boolean? ok
---@return Error? err
function M.same_programs(ctx, pair)
    local bin = ctx.env.bin
    if agents.same_host(pair.primary.hostname, pair.mirror.hostname) then
        return true
    end
    local there, err = ctx.agents:call(pair.primary.hostname, "programs", { bin = bin },
        { timeout_ms = ANSWER_MS })
    if not there then
        return nil, on_host(pair.primary.hostname, err)
    end
    err = M.check_programs(ctx.agents, bin, { pair.mirror.hostname }, there.version)[1]
    return not err or nil, err
end

--- Gives hosts the passfile of this one. One that has it already is given the same again.
---@param set table lib/agents.lua's
---@param env {passfile: string}
---@param hosts string[]
---@return boolean? ok
---@return Error? err of the first host that failed
function M.keep_secret(set, env, hosts)
    local text, err = mr.read_file(env.passfile)
    if not text then
        return nil, err
    end
    local others = {}
    for _, host in ipairs(hosts) do
        table.insert(others, not agents.is_local(host) and host or nil)
    end
    local problem = each(others, function(host)
        local kept, why = set:call(host, "passfile", { path = env.passfile, text = text },
            { timeout_ms = ANSWER_MS })
        return kept, why and on_host(host, why,
            "the servers' owner needs the same home directory on every host")
    end)[1]
    return not problem or nil, problem
end

return M
