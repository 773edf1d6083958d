--- A table `orders (id, item)` that is sharded over the segments through postgres_fdw, writers on
--- the coordinator that keep a ledger of every row, and its proof.
---
---     local cluster = require("tests.lib.cluster").new(place, { hba = shop.hba })
---     local writers = shop.open(cluster, 4)
---     writers:progress(100, 20)
---     local proof = writers:prove()
---     assert.are.equal(0, proof.missing)

local psql = require("tests.lib.psql")
local writers_of = require("tests.lib.writers")

local M = {}

--- Lines of pg_hba.conf that such a cluster needs; the socket's for sessions of its user.
M.hba = { "host shop shop 127.0.0.1/32 scram-sha-256", "local shop shop trust" }

--- Makes the table on a cluster and starts writers, whose proof is {acknowledged, refused, unknown,
--- missing, ghosts, twice, strangers}: counts.
---@param cluster table
---@param sessions integer
---@return table writers of tests/lib/writers.lua
function M.open(cluster, sessions)
    return writers_of.start(cluster, "shop",
        { arguments = { tostring(#cluster.config.segments), tostring(sessions) } })
end

--- A psql session of the shop's user on the coordinator.
---@param cluster table
---@return table session
function M.session(cluster)
    return psql.session(cluster.place, setmetatable({ dbname = "shop", user = "shop" },
        { __index = cluster:coordinator() }))
end

--- Nothing acknowledged is missing, nothing refused is there, nothing is there twice or unwritten.
M.sound = writers_of.sound

return M
