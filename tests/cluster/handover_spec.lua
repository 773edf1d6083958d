--- recoverseg -r on real servers: roles change places without copying, or nothing has changed.

local checkup = require("tests.lib.checkup")
local cluster_of = require("tests.lib.cluster")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")
local workload = require("tests.lib.workload")

local SOON_S = 20
local SETTINGS = { autovacuum = "off", allow_in_place_tablespaces = "on" }

describe("recoverseg -r", function()
    local place, cluster, watch, writers

    setup(function()
        place = place_of.new()
        cluster = cluster_of.new(place, { segments = 1, settings = SETTINGS })
        cluster:init()
        workload.fill(cluster:primary(0))
        watch = cluster:watch()
        watch:says("watching", SOON_S)
    end)

    teardown(function()
        if place then
            place:close()
        end
    end)

    -- Every test begins with switched roles, in sync.
    before_each(function()
        cluster:moonrise({ "start", "-a" })
        cluster:moonrise({ "recoverseg", "-a" })
        cluster:wait_healthy(60)
        if cluster:primary(0).preferred_role == "p" then
            local mirror = cluster:mirror(0)
            cluster:primary(0):kill()
            cluster:wait_row({ dbid = mirror.dbid, role = "p" }, SOON_S)
            cluster:must({ "recoverseg", "-a" })
            cluster:wait_healthy(60)
        end
    end)

    after_each(function()
        if writers then
            writers:stop()
            writers = nil
        end
    end)

    local function journal_since(id)
        return cluster:catalog(("select kind, text from journal where id > %d order by id")
            :format(id))
    end

    local function last_id()
        return tonumber(cluster:catalog("select coalesce(max(id), 0) as id from journal")[1].id)
    end

    local function takes_writes(deadline_s)
        wait.eventually("the pair to take writes", deadline_s, function()
            return cluster:primary(0):try_sql("insert into grown (t) values ('after')",
                { timeout_s = 5 })
        end)
    end

    -- The pair is as it was, its old primary serves, and is the catalog's.
    local function nothing_changed(primary, mirror)
        cluster:wait_healthy(60)
        assert.are.equal(primary.dbid, cluster:primary(0).dbid)
        assert.are.equal(mirror.dbid, cluster:mirror(0).dbid)
        takes_writes(SOON_S)
    end

    it("returns the roles under load: a stall, no copying, and the writers' data is whole",
        function()
        local old, since = cluster:primary(0), last_id()
        local mirror = cluster:mirror(0)
        writers = workload.start(old)
        writers:progress(SOON_S)
        local out = cluster:must({ "recoverseg", "-a", "-r" })
        assert.matches("roles returned, writers stalled", out)
        cluster:wait_healthy(60, true)
        assert.are.equal(mirror.dbid, cluster:primary(0).dbid)
        assert.are.equal(old.dbid, cluster:mirror(0).dbid)
        for _, row in ipairs(journal_since(since)) do
            assert.are_not.equal("recovered", row.kind)
        end
        writers:stop()
        writers = workload.start(cluster:primary(0))
        writers:progress(SOON_S)
        writers:stop()
        checkup.pair(cluster, 0)
    end)

    it("has nothing to do when all roles are the preferred ones", function()
        cluster:must({ "recoverseg", "-a", "-r" })
        cluster:wait_healthy(60, true)
        assert.matches("in their preferred roles", cluster:must({ "recoverseg", "-a", "-r" }))
    end)

    it("is refused while the replay lags, and before anything is stopped", function()
        local primary, mirror = cluster:primary(0), cluster:mirror(0)
        mirror:sql("select pg_wal_replay_pause()")
        finally(function()
            mirror:sql("select pg_wal_replay_resume()")
        end)
        primary:sql("insert into grown (t) select repeat('y', 200) from generate_series(1, 20000)")
        local pid = primary:pid()
        local result = cluster:moonrise({ "recoverseg", "-a", "-r", "--replay-lag", "1MB" })
        assert.are.equal(1, result.code)
        assert.matches("the mirror's replay is %d.* behind", result.err)
        assert.are.equal(pid, cluster:primary(0):pid())
        mirror:sql("select pg_wal_replay_resume()")
        nothing_changed(primary, mirror)
    end)

    it("is undone when the mirror's receiver hangs: the old primary serves again", function()
        local primary, mirror = cluster:primary(0), cluster:mirror(0)
        local receiver = tonumber(mirror:value("(select pid from pg_stat_wal_receiver)"))
        local since = last_id()
        place_of.kill(receiver, "STOP")
        finally(function()
            place_of.kill(receiver, "CONT")
        end)
        local result = cluster:moonrise({ "recoverseg", "-a", "-r" })
        assert.are.equal(1, result.code, result.out)
        takes_writes(SOON_S)
        assert.are.equal(primary.dbid, cluster:primary(0).dbid)
        for _, row in ipairs(journal_since(since)) do
            assert.are_not.equal("hand_over", row.kind)
        end
        place_of.kill(receiver, "CONT")
        cluster:moonrise({ "recoverseg", "-a" })
        nothing_changed(primary, mirror)
    end)

    local STEPS = {
        { "the lease is taken", function(since)
            return cluster:catalog(("select from journal where id > %d and kind = 'lease' " ..
                "and text like 'handover%%'"):format(since))[1]
        end },
        { "the primary is told to stop", function(_, primary)
            return not primary:running() or
                place_of.read(primary.datadir .. "/moonrise.epoch"):match("stop")
        end },
        { "the primary is stopped", function(_, primary)
            return not primary:running()
        end },
        { "the roles have changed", function(since)
            return cluster:catalog(("select from journal where id > %d and kind = 'hand_over'")
                :format(since))[1]
        end },
        { "the step says so", function()
            return cluster:catalog("select from content_lease where step = 'handed'")[1]
        end },
        { "the mirror is promoted", function(_, _, mirror)
            return mirror:value("pg_is_in_recovery()") == "f"
        end },
        { "the promotion is recorded", function(since)
            return cluster:catalog(("select from journal where id > %d and kind = 'promoted'")
                :format(since))[1]
        end },
    }

    -- The watcher finishes or undoes it: one of the two serves, and the pair is in sync again.
    local function settles(after)
        wait.eventually("a pair that is whole again after " .. after, 90, function()
            cluster:moonrise({ "recoverseg", "-a" })
            for _, row in ipairs(cluster:rows()) do
                if row.content == "0" and (row.status ~= "u" or row.mode ~= "s") then
                    return nil, row.dbid .. row.role .. row.mode .. row.status
                end
            end
            return true
        end)
    end

    for _, step in ipairs(STEPS) do
        it("killed once " .. step[1] .. " ends in one of the two good states", function()
            local primary, mirror, since = cluster:primary(0), cluster:mirror(0), last_id()
            local run = cluster:start({ "recoverseg", "-a", "-r" })
            wait.eventually(step[1], SOON_S, function()
                return step[2](since, primary, mirror) or run:code()
            end)
            run:kill("KILL")
            run:wait(SOON_S)
            -- The watcher acts once the lease has expired, half a minute after the kill.
            takes_writes(90)
            settles(step[1])
            assert.are.equal("t", cluster:mirror(0):value("pg_is_in_recovery()"))
            checkup.slots(cluster:primary(0), cluster:mirror(0))
        end)
    end
end)
