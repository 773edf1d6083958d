--- A table `orders (id, item)` that is sharded over the segments through postgres_fdw, writers on
--- the coordinator that keep a ledger of every row, and its proof.
---
---     local cluster = require("tests.lib.cluster").new(place, { hba = shop.hba })
---     local writers = shop.open(cluster, 4)
---     writers:progress(100, 20)
---     local proof = writers:prove()
---     assert.are.equal(0, proof.missing)

local json = require("dkjson")
local place_of = require("tests.lib.place")
local psql = require("tests.lib.psql")
local wait = require("tests.lib.wait")

local assert = require("luassert")

local M = {}
local Writers = {}
Writers.__index = Writers

--- Lines of pg_hba.conf that such a cluster needs; the socket's for sessions of its user.
M.hba = { "host shop shop 127.0.0.1/32 scram-sha-256", "local shop shop trust" }

--- Makes the table on a cluster and starts writers.
---@param cluster table
---@param sessions integer
---@return table writers
function M.open(cluster, sessions)
    local place = cluster.place
    place:must({ "mkdir", place:path("shop") })
    local file = place:write("shop_run.lua", place_of.read("tests/lib/shop_run.lua"))
    local program = cluster:start({ "run", file, place:path("shop"),
        tostring(#cluster.config.segments), tostring(sessions) })
    local writers = setmetatable({ program = program, place = place }, Writers)
    writers:progress(1, 30)
    return writers
end

--- A psql session of the shop's user on the coordinator.
---@param cluster table
---@return table session
function M.session(cluster)
    return psql.session(cluster.place, setmetatable({ dbname = "shop", user = "shop" },
        { __index = cluster:coordinator() }))
end

--- How many rows were acknowledged so far.
---@return integer
function Writers:count()
    return tonumber(place_of.read(self.place:path("shop/count")) or "") or 0
end

--- Waits until so many more rows are acknowledged.
---@param rows integer
---@param deadline_s number
function Writers:progress(rows, deadline_s)
    local goal = self:count() + rows
    wait.eventually(("%d more rows to be acknowledged"):format(rows), deadline_s, function()
        return self:count() >= goal, self.program:output()
    end)
end

--- Ends the writers; what they have begun comes to its end.
function Writers:stop()
    self.place:write("shop/stop", "")
    wait.eventually("the writers to stop", 90, function()
        return place_of.read(self.place:path("shop/stopped")), self.program:output()
    end)
end

--- Ends the writers and holds their ledger against the table.
---@return table proof {acknowledged, refused, unknown, missing, ghosts, twice, strangers}: counts
function Writers:prove()
    self:stop()
    self.place:write("shop/prove", "")
    local code = self.program:wait(90)
    if code ~= 0 then
        error(("the writers ended with code %d\n%s"):format(code, self.program:output()), 2)
    end
    return json.decode(place_of.read(self.place:path("shop/proof")))
end

--- Nothing acknowledged is missing, nothing refused is there, nothing is there twice or unwritten.
---@param proof table
function M.sound(proof)
    for _, fault in ipairs({ "missing", "ghosts", "twice", "strangers" }) do
        assert.are.equal(0, proof[fault], fault)
    end
end

return M
