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
local writers_of = require("tests.lib.writers")

local assert = require("luassert")

local M = {}

--- Lines of pg_hba.conf that such a cluster needs.
M.hba = { "host pinned pinned 127.0.0.1/32 scram-sha-256" }

local NAME = "pinned"

local function make_table(primary, password)
    primary:sql(("CREATE ROLE %s LOGIN PASSWORD '%s'"):format(NAME, password))
    primary:sql(("CREATE DATABASE %s OWNER %s"):format(NAME, NAME))
    primary:sql("CREATE TABLE pinned (id bigint PRIMARY KEY); ALTER TABLE pinned OWNER TO " .. NAME,
        { dbname = NAME })
end

-- Where clients find the instances: nobody has to ask the catalog, which may be out of reach.
local function segments(cluster)
    local list = {}
    for _, row in ipairs(cluster:rows()) do
        if tonumber(row.content) >= 0 then
            table.insert(list, { dbid = tonumber(row.dbid), content = tonumber(row.content),
                role = row.role, address = row.address, port = tonumber(row.port) })
        end
    end
    return list
end

--- Makes a table on every segment and starts the writers, whose proof has per content {content,
--- acknowledged, refused, unknown, missing, ghosts, twice, strangers} and acks.
---@param cluster table
---@param on? table the test host where they are, the cluster's own unless given
---@param more? {dbid: integer, content: integer, address: string, port: integer}[] where instances
--- may be later, each with a number of its own
---@return table writers of tests/lib/writers.lua
function M.open(cluster, on, more)
    local list = segments(cluster)
    for _, place in ipairs(more or {}) do
        table.insert(list, place)
    end
    local password = place_of.read("/proc/sys/kernel/random/uuid"):match("%S+")
    for _, inst in ipairs(list) do
        if inst.role == "p" then
            make_table(cluster:primary(inst.content), password)
        end
    end
    return writers_of.start(cluster, NAME, {
        files = { instances = json.encode(list), password = password }, on = on,
        proof_of = function()
            return json.encode(segments(cluster))
        end,
    })
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
