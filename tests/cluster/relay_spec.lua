--- Copies between two hosts that do not reach each other by ssh, while the coordinator's host
--- reaches both: they go through that one, and say so. Not past a host that may be another one.

local compare = require("tests.lib.compare")
local hosts_cluster = require("tests.lib.hosts_cluster")
local losing = require("tests.lib.losing")
local needs = require("tests.lib.needs")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")
local workload = require("tests.lib.workload")

local SOON_S = wait.SOON_S
local NAMES = { "cdw", "sdw1", "sdw2" }
local PLACES = { coordinator = "cdw", primary0 = "sdw1", mirror0 = "sdw2" }
local RELAYED = "relayed through this host, which is slower: sdw2 does not reach sdw1 by ssh"
local SETTINGS = { autovacuum = "off", allow_in_place_tablespaces = "on" }
local MB = 2 ^ 20
local RECOVERED = [[
select data->>'resumed' as resumed, data->>'bytes_done' as bytes_done,
       data->>'bytes_written' as bytes_written
from journal where kind = 'recovered' order by id desc limit 1]]
local KNOWN = "~/.ssh/known_hosts"

describe("hosts that do not reach each other by ssh", function()
    local place, lab, cluster, why_not
    local undo

    local test = needs.of(getfenv(), function()
        return lab, why_not
    end)

    -- Takes a file of the target's host away, and has it back after the test.
    local function without(file)
        lab.sdw2:must(("mv %s %s.away"):format(file, file))
        undo = function()
            lab.sdw2:must(("mv %s.away %s"):format(file, file))
        end
    end

    setup(function()
        place = place_of.new()
        lab, cluster, why_not = hosts_cluster(place, NAMES, { hosts = PLACES, segments = 1,
            settings = SETTINGS })
    end)

    teardown(place_of.close_all)

    after_each(function()
        if undo then
            undo()
        end
        undo = nil
    end)

    local function told(result, why)
        local said = result.out .. result.err
        local first, last = said:find(RELAYED, 1, true)
        assert.is_truthy(first, said)
        assert.matches(why, said)
        assert.is_nil(said:find(RELAYED, last, true), said)
    end

    -- What runs on a host beside its servers, and what they have left.
    local function left(name)
        return lab[name]:must([[pgrep -fa 'moonrise[ ]agent|agent --(feed|relay)' || true
            ls -d /tmp/moonrise-relay-* 2>/dev/null || true]])
    end

    local function nothing_is_left()
        for _, name in ipairs({ "sdw1", "sdw2" }) do
            wait.eventually("everything to end on " .. name, SOON_S, function()
                local said = left(name)
                return said == "", said
            end)
        end
    end

    local function lose()
        losing.of(cluster, 0)
        cluster:primary(0):sql("insert into lost select generate_series(1, 20000)")
    end

    local function copied()
        local text = place_of.read(lab.sdw2:on_disk("/data/mirror0") .. "/moonrise.progress") or ""
        return tonumber(text:match("bytes_done%D+(%d+)")) or 0
    end

    local function is_a_copy()
        cluster:wait_healthy()
        assert.are.same({}, compare.pair(cluster:primary(0), cluster:mirror(0)))
    end

    test("mirrors are made through the coordinator's host: no key is accepted", function()
        without("~/.ssh/id_ed25519")
        local result = cluster:moonrise({ "init", "-a", cluster.file }, { timeout_s = 300 })
        assert.are.equal(0, result.code, result.err)
        told(result, "none of this user.s keys is accepted")
        nothing_is_left()
        workload.fill(cluster:primary(0))
        cluster:primary(0):sql("create table lost (n int)")
    end)

    test("they are recovered through it: nothing answers at the port of sshd", function()
        lose()
        undo = lab:cut("sdw1", "sdw2", { port = 22 })
        local result = cluster:moonrise({ "recoverseg", "-a", "--differential" })
        assert.are.equal(0, result.code, result.err)
        told(result, "time")
        nothing_is_left()
        is_a_copy()
    end)

    test("it is killed in the middle: all ends on both hosts, and a rerun goes on", function()
        lose()
        without(KNOWN)
        local program = cluster:start({ "recoverseg", "-a", "-F", "--max-rate", "8M" })
        wait.eventually("a copy under way", SOON_S, function()
            local agents = left("sdw1")
            local _, streams = agents:gsub("agent %-%-feed", "")
            local said = left("sdw2")
            return streams >= 2 and said:find("agent --relay /tmp/moonrise-relay", 1, true)
                and said:find("\n/tmp/moonrise-relay", 1, true)
                and copied() > MB, agents .. said
        end)
        program:kill("KILL")
        nothing_is_left()
        local before = copied()
        local result = cluster:moonrise({ "recoverseg", "-a", "-F" })
        assert.are.equal(0, result.code, result.err)
        told(result, "key is unknown")
        local made = cluster:catalog(RECOVERED)[1]
        assert.are.equal("true", made.resumed)
        assert.is_true(tonumber(made.bytes_written) < tonumber(made.bytes_done) - before)
        nothing_is_left()
        is_a_copy()
    end)

    test("a host that shows another key than on record is not got round", function()
        lose()
        without(KNOWN)
        lab.sdw2:must(("sed 's|^sdw1 .*|sdw1 '\"$(cut -d' ' -f1,2 ~/.ssh/id_ed25519.pub)\"'|' " ..
            "%s.away >%s"):format(KNOWN, KNOWN))
        local result = cluster:moonrise({ "recoverseg", "-a", "--differential" })
        assert.are_not.equal(0, result.code)
        assert.matches("not the one on record", result.out .. result.err)
        assert.is_nil((result.out .. result.err):find("relayed", 1, true))
        assert.are.equal("d", cluster:mirror(0).status)
        nothing_is_left()
    end)
end)
