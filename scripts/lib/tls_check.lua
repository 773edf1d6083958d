--- Whether every host of a cluster can use the files that cluster.lua's `tls` names, asked before
--- anything is made.
local cluster = require("lib.cluster")
local config = require("lib.config")
local mr = require("moonrise")

local M = {}

local SOON_S = 30 * 86400

-- Each host's instances: {host, names = the addresses that the certificate must be made out to}.
local function hosts(instances, by_name)
    local there, list = {}, {}
    for _, inst in ipairs(instances) do
        there[inst.hostname] = there[inst.hostname] or {}
        table.insert(there[inst.hostname], inst)
    end
    for i, host in ipairs(cluster.values(instances, "hostname")) do
        list[i] = { host = host, names = by_name and cluster.values(there[host], "address") or {} }
    end
    return list
end

local function check(set, tls, host)
    local answer, err = set:call(host.host, "tls", { cert = tls.cert, key = tls.key, ca = tls.ca,
                                                     names = host.names })
    if not answer then
        return nil, mr.error(err.code, ("tls on host %s: %s"):format(host.host, err.message),
            { cause = err, hint = err.hint or "nothing was touched" })
    end
    return answer
end

--- Asks the hosts' agents. What is no problem and should be known goes to the warnings of `conf`.
---@param set table lib/agents.lua's
---@param conf Config
---@param instances table[]
---@return Error[] problems
function M.run(set, conf, instances)
    local problems, warnings = {}, conf.warnings
    if not conf.tls then
        return problems
    end
    local list = hosts(instances, config.tls(conf).sslmode == "verify-full")
    local results = mr.parallel(list, 16, function(host)
        return check(set, conf.tls, host)
    end)
    for i, result in ipairs(results) do
        if result.error then
            table.insert(problems, result.error)
        elseif result.left_s < SOON_S then
            table.insert(warnings,
                ("tls: the certificate %s of host %s expires in %d days"):format(
                conf.tls.cert, list[i].host, math.floor(result.left_s / 86400)))
        end
    end
    if not conf.tls.ca then
        table.insert(warnings, "tls: without a ca clients cannot tell whether they reach the " ..
            "right server; moonrise itself can, by its password")
    end
    return problems
end

return M
