--- Writers that know one instance each, two for every pair, and their proof: what was acknowledged
--- is there, what was refused is not, and the two of a pair never acknowledged at the same time.
---
---     local cluster = require("tests.lib.cluster").new(place, { hba = pinned.hba })
---     local writers = pinned.open(cluster)
---     writers:progress(100, 20)
---     pinned.sound(cluster, writers:prove())

local alternation = require("tests.lib.alternation")
local json = require("dkjson")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local assert = require("luassert")

local M = {}
local Writers = {}
Writers.__index = Writers

--- Lines of pg_hba.conf that such a cluster needs.
M.hba = { "host pinned pinned 127.0.0.1/32 scram-sha-256" }

--- Makes a table on every segment and starts the writers.
---@param cluster table
---@return table writers
function M.open(cluster)
    local place = cluster.place
    place:must({ "mkdir", place:path("pinned") })
    local file = place:write("pinned_run.lua", place_of.read("tests/lib/pinned_run.lua"))
    local program = cluster:start({ "run", file, place:path("pinned") })
    local writers = setmetatable({ program = program, place = place }, Writers)
    writers:progress(1, 30)
    return writers
end

--- How many rows were acknowledged so far.
---@return integer
function Writers:count()
    return tonumber(place_of.read(self.place:path("pinned/count")) or "") or 0
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

--- Ends the writers and holds their ledgers against the tables of the primaries.
---@return table[] proof per content: {content, acknowledged, refused, unknown, missing, ghosts,
--- twice, strangers} and acks
function Writers:prove()
    self.place:write("pinned/stop", "")
    local code = self.program:wait(180)
    if code ~= 0 then
        error(("the writers ended with code %d\n%s"):format(code, self.program:output()), 2)
    end
    return json.decode(place_of.read(self.place:path("pinned/proof")))
end

--- Nothing is missing, nothing is there that was refused, and who acknowledges changed no more
--- often than the roles did.
---@param cluster table
---@param proof table
function M.sound(cluster, proof)
    for _, book in ipairs(proof) do
        for _, fault in ipairs({ "missing", "ghosts", "twice", "strangers" }) do
            assert.are.equal(0, book[fault], ("content %d: %s"):format(book.content, fault))
        end
        local roles = tonumber(cluster:catalog(
            "select count(*) as n from promotion where content = " .. book.content)[1].n)
        local changes = alternation.count(book.acks)
        assert.is_true(changes <= roles, ("content %d: %d changes of who acknowledges, %d of roles")
            :format(book.content, changes, roles))
    end
end

return M
