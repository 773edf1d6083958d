--- recoverseg -r on real servers: roles change places without copying, or nothing has changed.

local checkup = require("tests.lib.checkup")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")
local workload = require("tests.lib.workload")

local SOON_S = wait.SOON_S
-- The stop's and the flush's deadlines, a start, and a busy machine.
local GIVES_UP_S = 40
local SETTINGS = { autovacuum = "off", allow_in_place_tablespaces = "on" }

describe("recoverseg -r", function()
    local place, cluster

    setup(function()
        place = place_of.new()
        cluster = workload.cluster(place, SETTINGS)
    end)

    teardown(place_of.close_all)

    -- Every test begins with switched roles, in sync.
    before_each(function()
        cluster:mend()
        cluster:switch_roles(0)
    end)

    after_each(workload.stop_all)

    local function takes_writes(deadline_s)
        cluster:primary(0):wait_sql("insert into grown (t) values ('after')", deadline_s)
    end

    -- The pair is as it was, its old primary serves, and is the catalog's.
    local function nothing_changed(primary, mirror)
        cluster:wait_healthy()
        assert.are.equal(primary.dbid, cluster:primary(0).dbid)
        assert.are.equal(mirror.dbid, cluster:mirror(0).dbid)
        takes_writes(SOON_S)
    end

    it("returns the roles under load: a stall, no copying, and the writers' data is whole",
        function()
        local old, since = cluster:primary(0), cluster:journal_end()
        local mirror = cluster:mirror(0)
        local writers = workload.start(old)
        writers:progress(SOON_S)
        local out = cluster:must({ "recoverseg", "-a", "-r" })
        assert.matches("roles returned, writers stalled", out)
        cluster:wait_healthy(nil, true)
        assert.are.equal(mirror.dbid, cluster:primary(0).dbid)
        assert.are.equal(old.dbid, cluster:mirror(0).dbid)
        assert.are.same({}, cluster:journal({ kind = "recovered", since = since }))
        writers:stop()
        writers = workload.start(cluster:primary(0))
        writers:progress(SOON_S)
        writers:stop()
        checkup.pair(cluster, 0)
    end)

    it("has nothing to do when all roles are the preferred ones", function()
        cluster:must({ "recoverseg", "-a", "-r" })
        cluster:wait_healthy(nil, true)
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

    -- Something of the mirror's hangs: the handover gives up in time, and nothing has changed.
    local function given_up(pid)
        local primary, mirror, since = cluster:primary(0), cluster:mirror(0), cluster:journal_end()
        place_of.kill(pid, "STOP")
        finally(function()
            place_of.kill(pid, "CONT")
        end)
        local began = wait.now()
        local result = cluster:moonrise({ "recoverseg", "-a", "-r" })
        local took = wait.now() - began
        assert.are.equal(1, result.code, result.out)
        assert.is_true(took < GIVES_UP_S, took)
        takes_writes(SOON_S)
        assert.are.equal(primary.dbid, cluster:primary(0).dbid)
        assert.are.same({}, cluster:journal({ kind = "hand_over", since = since }))
        place_of.kill(pid, "CONT")
        nothing_changed(primary, mirror)
        checkup.slots(primary, mirror)
    end

    it("is refused before anything is stopped while the mirror could not be promoted", function()
        local primary, mirror, since = cluster:primary(0), cluster:mirror(0), cluster:journal_end()
        mirror:sql("select pg_wal_replay_pause()")
        finally(function()
            mirror:sql("select pg_wal_replay_resume()")
        end)
        local pid = primary:pid()
        local result = cluster:moonrise({ "recoverseg", "-a", "-r" })
        assert.are.equal(1, result.code, result.out)
        assert.matches("its replay is paused", result.err)
        assert.are.equal(pid, primary:pid())
        assert.are.same({}, cluster:journal({ kind = "hand_over", since = since }))
        mirror:sql("select pg_wal_replay_resume()")
        nothing_changed(primary, mirror)
    end)

    it("waits for the replay before it stops the primary", function()
        local primary, mirror = cluster:primary(0), cluster:mirror(0)
        local pid = primary:pid()
        -- Replay waits for the reader's snapshot at the first record that removes what it sees.
        mirror:sql("alter system set max_standby_streaming_delay = -1; select pg_reload_conf()")
        local reader = mirror:session()
        reader:ask("begin isolation level repeatable read; select count(*) from grown", 10)
        primary:sql("insert into grown (t) values ('gone')")
        primary:sql("delete from grown where t = 'gone'")
        primary:sql("vacuum grown")
        local written = primary:value("pg_current_wal_flush_lsn()")
        wait.eventually("the replay to be held up", SOON_S, function()
            return mirror:value(("pg_last_wal_receive_lsn() >= '%s' and " ..
                "pg_last_wal_replay_lsn() < '%s'"):format(written, written)) == "t"
        end)
        local run = cluster:start({ "recoverseg", "-a", "-r" })
        run:says("checkpoint", SOON_S)
        wait.always("the primary is left running", 2, function()
            return primary:pid() == pid and not run:code(), run:output()
        end)
        reader:close()
        assert.are.equal(0, run:wait(wait.SOON_S), run:output())
        assert.are.equal(mirror.dbid, cluster:primary(0).dbid)
    end)

    it("brings a pair that was begun to an end when it is told to stop", function()
        local primary, mirror = cluster:primary(0), cluster:mirror(0)
        -- A backend that hangs keeps its server from shutting down.
        local backend = primary:session()
        local pid = tonumber(backend:ask("select pg_backend_pid()", SOON_S):match("%d+"))
        place_of.kill(pid, "STOP")
        finally(function()
            place_of.kill(pid, "CONT")
            backend:close()
        end)
        local run = cluster:start({ "recoverseg", "-a", "-r" })
        wait.eventually("the primary to shut down", SOON_S, function()
            return place_of.read(primary.datadir .. "/postmaster.pid"):match("stopping")
        end)
        run:kill("TERM")
        assert.are.equal(1, run:wait(GIVES_UP_S))
        -- It is up when the command ends, not when the watcher has mended it.
        assert.is_truthy(primary:try_sql("select 1", { timeout_s = 5 }), run:output())
        assert.are.same({}, cluster:catalog("select * from content_lease"))
        nothing_changed(primary, mirror)
    end)

    it("names the pairs that stay out of place, and why", function()
        local mirror = cluster:mirror(0)
        mirror:kill()
        cluster:wait_row({ dbid = mirror.dbid, status = "d" }, wait.SOON_S)
        local result = cluster:moonrise({ "recoverseg", "-a", "-r" })
        assert.are.equal(1, result.code, result.out)
        assert.matches("left so: its mirror is down", result.err)
        assert.is_nil(result.out:find("All instances are in their preferred roles", 1, true))
    end)

    it("does not carry out a plan that was overtaken while it waited for the answer", function()
        local primary, mirror = cluster:primary(0), cluster:mirror(0)
        local run, answer = cluster:ask({ "recoverseg", "-r" })
        run:says("Continue with segment rebalance", SOON_S)
        primary:kill()
        cluster:wait_row({ dbid = mirror.dbid, role = "p" }, wait.SOON_S)
        answer("y")
        assert.are.equal(1, run:wait(wait.SOON_S), run:output())
        assert.matches("its role has changed since the plan was made", run:output())
        assert.are.equal(mirror.dbid, cluster:primary(0).dbid)
    end)

    it("is undone when the mirror's receiver hangs: the old primary serves again", function()
        given_up(tonumber(cluster:mirror(0):value("(select pid from pg_stat_wal_receiver)")))
    end)

    it("is undone when the mirror's postmaster hangs: the old primary serves again", function()
        given_up(cluster:mirror(0):pid())
    end)
end)
