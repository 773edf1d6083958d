--- `moonrise switchover` and `moonrise restart` under writers that keep a ledger, and what becomes
--- of them when they are killed at any moment. MOONRISE_CAMPAIGN=1 kills more often.

local checkup = require("tests.lib.checkup")
local cluster_of = require("tests.lib.cluster")
local dice_of = require("tests.lib.dice")
local gate_of = require("tests.lib.gate")
local json = require("dkjson")
local place_of = require("tests.lib.place")
local shop = require("tests.lib.shop")
local wait = require("tests.lib.wait")

local SOON_S = wait.SOON_S
local KILLS = os.getenv("MOONRISE_CAMPAIGN") and 40 or 2
-- A restart of both instances takes about as long.
local LATEST_S = 1.5

-- What the watcher does about a failure.
local FAULTS = { failover = true, promote = true, mirror_down = true, release = true,
    fence = true }

describe("switchover and restart", function()
    local place, cluster, watch, writers
    local dice = dice_of.new()

    setup(function()
        place = place_of.new()
        cluster = cluster_of.new(place, { segments = 2, hba = shop.hba, standby = true })
        cluster:init()
        watch = cluster:watched()
        writers = shop.open(cluster, 2)
    end)

    teardown(place_of.close_all)

    local function refused(code, words, ...)
        local before = cluster:rows()
        local result = cluster:moonrise({ ... })
        assert.are.equal(code, result.code, result.out .. result.err)
        assert.matches(words, result.out .. result.err)
        assert.are.same(before, cluster:rows())
        return result
    end

    -- The watcher has done nothing about it.
    local function unnoticed(since)
        local story, noticed = {}, false
        for _, row in ipairs(cluster:catalog("select time::time, kind, content, text from " ..
            "journal where content >= 0 and id > " .. since .. " order by id")) do
            table.insert(story, table.concat({ row.time, row.kind, row.content, row.text }, " "))
            noticed = noticed or FAULTS[row.kind]
        end
        assert.is_falsy(noticed, table.concat(story, "\n"))
    end

    local function started(server)
        return server:value("extract(epoch from pg_postmaster_start_time())")
    end

    it("change the roles of the contents that are named, with nothing lost", function()
        local since, old = cluster:journal_end(), { cluster:primary(0), cluster:primary(1) }
        local plan = cluster:must({ "switchover", "0", "1", "--dry-run" })
        assert.matches("content 1: primary becomes dbid " .. cluster:mirror(1).dbid, plan)
        assert.matches("replay is %d+ bytes behind", plan)
        local told = cluster:must({ "switchover", "0", "1", "-a", "--json" })
        assert.matches('"refused":%[%]', told)
        assert.are.equal(2, #json.decode(told).handed_over)
        for content = 0, 1 do
            assert.are.equal(old[content + 1].dbid, cluster:mirror(content).dbid)
            checkup.slots(cluster:primary(content), cluster:mirror(content))
        end
        cluster:wait_healthy()
        writers:progress(20, SOON_S)
        unnoticed(since)
    end)

    it("are refused before anything is touched", function()
        refused(2, "the coordinator's pair is not handed over", "switchover", "-a", "-1")
        refused(2, "the cluster has no content 7", "switchover", "-a", "0", "7")
        refused(2, "no terminal; use %-a", "switchover", "0")
        refused(2, "the cluster has no content 5; an instance is named with %-%-dbid 5",
            "restart", "-a", "5")
        refused(1, "moonrise stop %-r restarts the whole cluster", "restart", "-a", "-1")
        refused(1, "sessions of clients are open on it", "restart", "-a", "0", "-M", "smart")
        refused(2, "no terminal; use %-a", "restart", "0")
    end)

    it("make a setting take effect, mirror first, in sync throughout", function()
        local since, primary, mirror = cluster:journal_end(), cluster:primary(0), cluster:mirror(0)
        local others = started(cluster:primary(1))
        for _, server in ipairs({ primary, mirror }) do
            server:sql("alter system set max_wal_senders = 13")
        end
        local armed = primary:value("current_setting('synchronous_standby_names')")
        cluster:must({ "restart", "0", "-a" })
        for _, server in ipairs({ primary, mirror }) do
            assert.are.equal("13", server:value("current_setting('max_wal_senders')"))
        end
        assert.is_true(started(mirror) < started(primary))
        assert.are.equal(others, started(cluster:primary(1)))
        assert.are.equal(armed, primary:value("current_setting('synchronous_standby_names')"))
        assert.are.same({}, cluster:catalog("select * from content_lease"))
        cluster:wait_healthy()
        writers:progress(20, SOON_S)
        unnoticed(since)
    end)

    it("restart one instance alone, the standby coordinator too", function()
        local since, primary = cluster:journal_end(), cluster:primary(1)
        for _, inst in ipairs({ cluster:mirror(1), cluster:mirror(-1) }) do
            local before, its_primary = started(inst), started(primary)
            cluster:must({ "restart", "--dbid", inst.dbid, "-a", "-M", "immediate" })
            assert.are_not.equal(before, started(inst))
            assert.are.equal(its_primary, started(primary))
        end
        cluster:wait_healthy()
        unnoticed(since)
    end)

    it("bring nobody down for good when they are killed at any moment", function()
        for _ = 1, KILLS do
            for _, command in ipairs({ { "restart", "0", "-a" }, { "switchover", "0", "-a" } }) do
                local run = cluster:start(command)
                dice:kill(run, LATEST_S)
                run:wait(SOON_S)
                wait.eventually("nobody to work on it any more", wait.SOON_S, function()
                    local left = cluster:catalog("select * from content_lease")[1]
                    return not left, left and ("%s, %s, %s"):format(left.holder, left.intent,
                        left.step) .. watch:output()
                end)
                wait.eventually("the primary to serve", SOON_S, function()
                    return cluster:primary(0):value("pg_is_in_recovery()") == "f"
                end)
                cluster:wait_healthy()
                writers:progress(10, SOON_S)
            end
        end
    end)

    -- Killed while the primary is down: the moment that matters most.
    it("have the watcher start the primary that a killed restart has stopped", function()
        local since, primary = cluster:journal_end(), cluster:primary(0)
        local gate = gate_of.close(cluster, "insert on journal", "new.text = 'restart: start'")
        local run = cluster:start({ "restart", "--dbid", primary.dbid, "-a" })
        wait.eventually("the restart to be about to start it", SOON_S, function()
            return gate:reached()
        end)
        assert.is_false(primary:running())
        run:kill("KILL")
        gate:remove()
        local taken_over = { kind = "lease", since = since,
            text = "^restart: .* takes over content 0, left at step dbid " .. primary.dbid .. "$" }
        cluster:wait_journal(taken_over, SOON_S)
        wait.eventually("the primary to serve again", SOON_S, function()
            return primary:value("pg_is_in_recovery()") == "f"
        end)
        cluster:wait_healthy()
        assert.are.equal(primary.dbid, cluster:primary(0).dbid)
        assert.are.equal(1, #cluster:journal(taken_over))
        unnoticed(since)
    end)

    it("lose nothing", function()
        shop.sound(writers:prove())
    end)
end)
