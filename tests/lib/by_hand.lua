--- What somebody does to a stopped server of a pair past moonrise, for specs of what comes of it.

local cluster_of = require("tests.lib.cluster")
local place_of = require("tests.lib.place")

local M = {}

local SIGNAL = "standby.signal"

--- Makes a cluster of one pair with the table t that is written to here.
---@param place table
---@return table cluster
function M.cluster(place)
    local cluster = cluster_of.new(place, { segments = 1, settings = { autovacuum = "off" } })
    cluster:init()
    cluster:primary(0):sql("create extension amcheck; create table t (who text)")
    return cluster
end

--- Has a server start as a standby.
---@param server table
function M.as_standby(server)
    server.place:write(server.name .. "/" .. SIGNAL, "")
end

--- Has a server start as a primary.
---@param server table
function M.as_primary(server)
    os.remove(server.datadir .. "/" .. SIGNAL)
end

local function writes(server, who)
    server:sql(("set synchronous_commit = local; insert into t values ('%s')"):format(who))
end

--- Promotes it as a standby and writes to it; stopped in the end, and a standby again.
---@param server table
---@param who string a row of table t that nobody else has
---@return string history of its own timeline
function M.promote(server, who)
    M.as_standby(server)
    server:start()
    server:sql("select pg_promote()")
    writes(server, who)
    server:stop()
    M.as_standby(server)
    return place_of.read(server.datadir .. "/pg_wal/00000002.history")
end

--- The same without a timeline: nobody promotes a server that is no standby by its files.
---@param server table
---@param who string
function M.run(server, who)
    M.as_primary(server)
    server:start()
    writes(server, who)
    server:stop()
end

return M
