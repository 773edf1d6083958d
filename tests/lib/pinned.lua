--- Writers that know one instance each, two for every pair, and their proof: what was acknowledged
--- is there, what was refused is not, and the two of a pair never acknowledged at the same time.
---
---     local cluster = require("tests.lib.cluster").new(place, { hba = pinned.hba })
---     local writers = pinned.open(cluster)
---     writers:progress(100, 20)
---     pinned.sound(cluster, writers:prove())

local alternation = require("tests.lib.alternation")
local writers_of = require("tests.lib.writers")

local assert = require("luassert")

local M = {}

--- Lines of pg_hba.conf that such a cluster needs.
M.hba = { "host pinned pinned 127.0.0.1/32 scram-sha-256" }

--- Makes a table on every segment and starts the writers, whose proof has per content {content,
--- acknowledged, refused, unknown, missing, ghosts, twice, strangers} and acks.
---@param cluster table
---@return table writers of tests/lib/writers.lua
function M.open(cluster)
    return writers_of.start(cluster, "pinned")
end

--- Nothing is missing, nothing is there that was refused, and who acknowledges changed no more
--- often than the roles did.
---@param cluster table
---@param proof table
function M.sound(cluster, proof)
    for _, book in ipairs(proof) do
        writers_of.sound(book, ("content %d: "):format(book.content))
        local roles = tonumber(cluster:catalog(
            "select count(*) as n from promotion where content = " .. book.content)[1].n)
        local changes = alternation.count(book.acks)
        assert.is_true(changes <= roles, ("content %d: %d changes of who acknowledges, %d of roles")
            :format(book.content, changes, roles))
    end
end

return M
