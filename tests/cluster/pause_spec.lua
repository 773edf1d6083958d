--- Failover that is paused: by the catalog, by the watcher, under writers that keep a ledger.

local cluster_of = require("tests.lib.cluster")
local json = require("dkjson")
local place_of = require("tests.lib.place")
local shop = require("tests.lib.shop")
local wait = require("tests.lib.wait")

local SOON_S = wait.SOON_S
-- For how long it is watched that nothing is done.
local STILL_S = 1.5

describe("failover, paused,", function()
    local place, cluster, writers

    setup(function()
        place = place_of.new()
        cluster = cluster_of.new(place, { hosts = { mirror0 = "127.0.0.1" },
            hba = shop.hba })
        cluster:init()
    end)

    teardown(place_of.close_all)

    local function paused(...)
        return cluster:must({ "pause", "-a", "--reason", "new switches", ... })
    end

    local function unchanged(what)
        local rows = cluster:rows()
        wait.always(what, STILL_S, function()
            assert.are.same(rows, cluster:rows())
            return true
        end)
    end

    it("is refused by the catalog to the watcher, not to a runbook", function()
        paused("0", "--for", "1h")
        local mirror = cluster:mirror(0).dbid
        local promote = ("select moonrise.promote(%%s, 0, %s, '{}')"):format(mirror)
        local down = "select moonrise.mirror_down(null, 0, 'x')"
        for _, sql in ipairs({ promote:format("null"), down }) do
            local _, message = cluster:coordinator():try_sql(
                "select moonrise.watcher_lease_take('spec'); " .. sql, { dbname = "moonrise" })
            assert.matches("failover of content 0 is paused until .* by .*: new switches", message)
        end
        cluster:catalog("begin; select " .. promote:gsub("^select ", ""):format(
            "moonrise.lease_take(0, 'spec', 'spec', 'x', '1 minute')") .. "; rollback")
        cluster:must({ "resume", "-a", "0" })
        local _, message = cluster:coordinator():try_sql(
            "begin; select moonrise.watcher_lease_take('spec'); " .. promote:format("null") ..
            "; rollback", { dbname = "moonrise" })
        assert.is_nil(message)
    end)

    -- The watcher does so every second.
    it("is read without the plan being compiled", function()
        local plan = cluster:catalog("explain select * from moonrise.paused_content")
        local cost = tonumber(plan[1]["QUERY PLAN"]:match("cost=[%d.]+%.%.([%d.]+)"))
        assert.is_true(cost < 50000, cost)
    end)

    it("leaves a killed primary where it is, and goes on at once when it is resumed", function()
        cluster:watched()
        writers = shop.open(cluster, 2)
        paused("0", "--for", "1h")
        local since, old, mirror = cluster:journal_end(), cluster:primary(0), cluster:mirror(0)
        old:kill()
        cluster:wait_journal({ kind = "refused", since = since }, SOON_S)
        unchanged("nobody is promoted")
        assert.matches("no promotion: rule 6: failover is paused here until .*: new switches",
            cluster:journal({ kind = "refused", since = since })[1].text)
        assert.are.equal(1, #cluster:journal({ kind = "refused", since = since }))
        cluster:must({ "resume", "-a" })
        cluster:wait_row({ dbid = mirror.dbid, role = "p" }, SOON_S)
        writers:progress(20, SOON_S)
        cluster:recover()
    end)

    it("is shown by state, in every view, with the code 1", function()
        paused("127.0.0.1", "--for", "1h")
        for _, view in ipairs({ "-b", "-e", "-s", "-m" }) do
            local result = cluster:moonrise({ "state", view })
            assert.are.equal(1, result.code)
            assert.matches("Failover of host 127.0.0.1 is paused until 20.* by .*@.*: new switches",
                result.out)
        end
        assert.matches("Failover Is Paused: Nothing Is Promoted or Released",
            cluster:moonrise({ "state", "-e" }).out)
        local told = json.decode(cluster:moonrise({ "state", "--json" }).out)
        assert.are.equal("127.0.0.1", told.pauses[1].hostname)
        assert.are.equal("new switches", told.pauses[1].reason)
        assert.is_false(told.ok)
    end)

    it("of a host leaves its lost mirror alone until it is resumed, and commits wait", function()
        local since = cluster:journal_end()
        local mirror = cluster:instance({ content = 0, role = "m" })
        mirror:kill()
        cluster:wait_journal({ kind = "refused", since = since }, SOON_S)
        unchanged("nobody is released")
        local before = writers:count()
        unchanged("commits wait")
        assert.is_true(writers:count() - before <= 2)
        assert.matches("no release: rule 6: failover is paused here",
            cluster:journal({ kind = "refused", since = since })[1].text)
        local still = cluster:moonrise({ "resume", "-a", "0" })
        assert.are.equal(1, still.code)
        assert.matches("content 0 stays paused by the pause of host 127.0.0.1",
            still.err .. still.out)
        cluster:must({ "resume", "-a", "127.0.0.1" })
        cluster:wait_row({ dbid = mirror.dbid, status = "d" }, SOON_S)
        writers:progress(20, SOON_S)
        cluster:recover()
    end)

    it("goes on by itself when the time is over", function()
        paused("--for", "4s")
        local since, mirror = cluster:journal_end(), cluster:mirror(0)
        cluster:primary(0):kill()
        cluster:wait_row({ dbid = mirror.dbid, role = "p" }, SOON_S)
        local promoted = cluster:journal({ kind = "promote", since = since })[1].time
        assert.are.equal("t", cluster:coordinator():value(("'%s' >= (select max(until) from " ..
            "moonrise.pause)"):format(promoted), { dbname = "moonrise" }))
        writers:progress(20, SOON_S)
        cluster:recover()
        local state = cluster:moonrise({ "state", "-b" })
        assert.is_nil(state.out:match("paused"), state.out)
    end)

    it("loses nothing", function()
        shop.sound(writers:prove())
    end)
end)
