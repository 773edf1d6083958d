--- The watcher's own life: the lease, one cycle, the background, its journal without a coordinator,
--- and policies that misbehave.

local cluster_of = require("tests.lib.cluster")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local SOON_S = 10

describe("watch", function()
    local place, cluster

    setup(function()
        place = place_of.new()
        cluster = cluster_of.new(place, { segments = 1 })
        cluster:init()
    end)

    teardown(function()
        if place then
            place:close()
        end
    end)

    local function state_files()
        return place:path("home/state/moonrise/" .. cluster.config.name)
    end

    it("refuses options that contradict each other", function()
        assert.are.equal(2, cluster:moonrise({ "watch", "--once", "--daemon" }).code)
        assert.are.equal(2, cluster:moonrise({ "watch", "--policy", "failover=/nowhere" }).code)
        assert.are.equal(2, cluster:moonrise({ "watch", "--interval", "1ms" }).code)
    end)

    it("--once looks at everything once, and acts", function()
        cluster:mirror(0):kill()
        cluster:must({ "watch", "--once" })
        cluster:wait_row({ content = 0, role = "m", status = "d", mode = "n" }, 1)
        cluster:must({ "recoverseg", "-a" })
        cluster:wait_healthy(60)
    end)

    it("runs in the background until --stop", function()
        cluster:must({ "watch", "--daemon" })
        wait.eventually("the lease to be held", SOON_S, function()
            return cluster:catalog("select watcher from cluster_state where watcher is not null")[1]
        end)
        assert.are.equal(1, cluster:moonrise({ "watch", "--daemon" }).code)
        local pid = tonumber(place_of.read(state_files() .. "/watch.pid"))
        cluster:must({ "watch", "--stop" })
        assert.is_false(place_of.alive(pid))
        cluster:must({ "watch", "--stop" })
    end)

    it("waits while another one holds the lease, and takes over when that one dies", function()
        local first = cluster:watch()
        first:says("watching", SOON_S)
        local second = cluster:watch()
        second:says("somebody else holds", SOON_S)
        assert.are.equal(1, cluster:moonrise({ "watch", "--once" }).code)
        first:kill("KILL")
        second:says("watching", SOON_S)
        second:kill("TERM")
        assert.are.equal(0, second:wait(SOON_S))
    end)

    it("loses the lease when it is stopped, and what it wanted is refused when it wakes", function()
        local first = cluster:watch()
        first:says("watching", SOON_S)
        first:kill("STOP")
        local second = cluster:watch()
        second:says("watching", 20)
        first:kill("CONT")
        first:says("no catalog", SOON_S)
        first:kill("TERM")
        second:kill("TERM")
        first:wait(SOON_S)
        second:wait(SOON_S)
    end)

    it("leaves a leased content alone, and finishes what an expired lease was for", function()
        local watch = cluster:watch()
        watch:says("watching", SOON_S)
        cluster:catalog("select moonrise.lease_take(0, 'spec', 'stop', 'x', '4 seconds')")
        local mirror = cluster:mirror(0)
        cluster:primary(0):stop()
        wait.always("the mirror is no primary while the lease holds", 2, function()
            return cluster:mirror(0).dbid == mirror.dbid
        end)
        cluster:wait_row({ dbid = mirror.dbid, role = "p" }, 20)
        assert.are.same({}, cluster:catalog("select * from content_lease"))
        cluster:must({ "recoverseg", "-a" })
        cluster:wait_healthy(60)
        watch:kill("TERM")
        watch:wait(SOON_S)
    end)

    it("reports a lost coordinator, keeps its journal beside it, and loads it later", function()
        local watch = cluster:watch()
        watch:says("watching", SOON_S)
        local coordinator = cluster:coordinator()
        coordinator:kill()
        wait.eventually("the journal's file", SOON_S, function()
            return (place_of.read(state_files() .. "/journal.jsonl") or ""):match("primary_lost")
        end)
        cluster:must({ "start", "-a" })
        wait.eventually("its rows in the catalog", 20, function()
            return cluster:catalog("select id from journal where content = -1 " ..
                "and text like 'primary_lost%'")[1], watch:output()
        end)
        wait.eventually("the file to be gone", SOON_S, function()
            return not place_of.read(state_files() .. "/journal.jsonl")
        end)
        watch:kill("TERM")
        watch:wait(SOON_S)
    end)

    it("lives with a policy that never ends: it is reported, the packaged one decides", function()
        local file = place:write("endless.lua",
            "return { decide = function() while true do end end }")
        local watch = cluster:watch("--policy", "failover=" .. file)
        watch:says("watching", SOON_S)
        local mirror = cluster:mirror(0)
        cluster:primary(0):kill()
        cluster:wait_row({ dbid = mirror.dbid, role = "p" }, SOON_S)
        assert.matches("endless.lua", cluster:catalog(
            "select text from journal where kind = 'policy_fault' order by id limit 1")[1].text)
        watch:kill("TERM")
        assert.are.equal(0, watch:wait(SOON_S))
    end)
end)
