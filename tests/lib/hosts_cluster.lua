--- A cluster over test hosts of its own, with disks in memory, which outlive no test.
---
---     lab, cluster, why_not = hosts_cluster(place, { "cdw", "sdw1" }, { hosts = PLACES })

local cluster_of = require("tests.lib.cluster")
local hosts = require("tests.lib.hosts")

local MEMORY = "1g"

--- Makes the hosts and describes the cluster, or says why there are no hosts here.
---@param place table
---@param names string[]
---@param options table of tests/lib/cluster.lua
---@return table? lab
---@return table? cluster
---@return string? why_not
return function(place, names, options)
    local lab, why_not = hosts.open(place, names, { memory = MEMORY })
    if not lab then
        return nil, nil, why_not
    end
    options.lab = lab
    return lab, cluster_of.new(place, options)
end
