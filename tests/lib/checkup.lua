--- What must hold after every recovery of a pair.

local compare = require("tests.lib.compare")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local assert = require("luassert")

local M = {}

local LEFTOVERS = { "moonrise.patch", "moonrise.control", "moonrise.control.moving",
    "backup_label", "tablespace_map", "moonrise.probe" }

local function slots(server)
    local list = {}
    for _, row in ipairs(server:sql("select slot_name, active from pg_replication_slots")) do
        table.insert(list, row.slot_name .. " " .. row.active)
    end
    return list
end

--- One slot of its own on the primary and in use, none on the mirror.
---@param primary table
---@param mirror table
function M.slots(primary, mirror)
    local wanted = { ("mr_slot_%s t"):format(mirror.dbid) }
    wait.patiently("the mirror to hold its slot", wait.SOON_S, function()
        return slots(primary)[1] == wanted[1]
    end)
    assert.are.same(wanted, slots(primary))
    assert.are.same({}, slots(mirror))
end

--- pg_amcheck on the mirror: heap and indexes are sound there, too.
---@param server table
---@param dbname? string default postgres; it has the extension amcheck
function M.amcheck(server, dbname)
    server.place:must({ server.bin .. "/pg_amcheck", "-h", server.host, "-p",
        tostring(server.port), "-d", dbname or "postgres", "--heapallindexed" },
        { timeout_s = 120 })
end

--- `state -e` has nothing to say; roles that were switched meanwhile are returned first.
---@param cluster table
---@param content integer
function M.state(cluster, content)
    if cluster:primary(content).preferred_role ~= "p" then
        cluster:must({ "recoverseg", "-a", "-r" })
        cluster:wait_healthy(nil, true)
    end
    -- What it says of positions is as old as its question.
    wait.patiently("state -e to be clean", wait.SOON_S, function()
        local result = cluster:moonrise({ "state", "-e" })
        return result.code == 0 and result.out:match("All segments are running normally"),
            result.out .. result.err
    end)
end

local function leftovers(server)
    local list = {}
    for _, name in ipairs(LEFTOVERS) do
        if place_of.read(server.datadir .. "/" .. name) then
            table.insert(list, name)
        end
    end
    return list
end

--- Everything but what needs the pair to be stopped. Nobody writes to it any more.
---@param cluster table
---@param content integer
function M.pair(cluster, content)
    cluster:wait_healthy()
    local primary, mirror = cluster:primary(content), cluster:mirror(content)
    assert.are.same({}, leftovers(mirror))
    assert.are.same({}, compare.pair(primary, mirror))
    M.slots(primary, mirror)
    M.amcheck(mirror)
    M.state(cluster, content)
end

--- pg_checksums on both sides of a pair, for which the cluster is stopped and started once.
---@param cluster table
---@param content integer
function M.checksums(cluster, content)
    local primary, mirror = cluster:primary(content), cluster:mirror(content)
    cluster:must({ "stop", "-a" })
    for _, server in ipairs({ primary, mirror }) do
        local out = cluster.place:must({ server.bin .. "/pg_checksums", "--check", "-D",
            server.datadir })
        assert.matches("Bad checksums:  0", out, 1, true)
    end
    cluster:must({ "start", "-a" })
    cluster:wait_healthy()
end

return M
