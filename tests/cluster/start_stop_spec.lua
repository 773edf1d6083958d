--- `moonrise start` and `moonrise stop` on real servers.

local cluster_of = require("tests.lib.cluster")
local pg = require("tests.lib.pg")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

describe("start and stop", function()
    local place, cluster, coordinator, primary, mirror, standby

    setup(function()
        place = place_of.new()
        cluster = cluster_of.new(place, { segments = 2, standby = true,
            hba = { "host all all 127.0.0.1/32 scram-sha-256" } })
        cluster:init()
        coordinator, standby = cluster.config.coordinator, cluster.config.standby
        primary, mirror = cluster.config.segments[1].primary, cluster.config.segments[1].mirror
    end)

    teardown(place_of.close_all)

    local function at(where)
        return pg.at(place, where.datadir)
    end

    local function all()
        return { coordinator, standby, primary, mirror, cluster.config.segments[2].primary,
            cluster.config.segments[2].mirror }
    end

    local function how_many_run()
        local n = 0
        for _, where in ipairs(all()) do
            n = n + (at(where):running() and 1 or 0)
        end
        return n
    end

    local function healthy()
        for _, row in ipairs(cluster:rows()) do
            assert.equal("su", row.mode .. row.status, "dbid " .. row.dbid)
        end
        assert.equal("running", cluster:catalog("select state from cluster_state")[1].state)
        assert.same({}, cluster:catalog("select * from content_lease"))
    end

    local function row(where)
        local port = where.port
        local found = cluster:catalog("select role, mode, status from gp_segment_configuration " ..
            "where port = " .. port)[1]
        return found.role .. found.mode .. found.status
    end

    local function writes(where, dbname)
        at(where):sql("create table if not exists t (i int); insert into t values (1)",
            { dbname = dbname, timeout_s = 10 })
    end

    it("stop everything and start everything, in sync throughout", function()
        local armed = at(primary):value("current_setting('synchronous_standby_names')")
        assert.matches("^mr_0_", armed)
        cluster:must({ "stop", "-a" })
        assert.equal(0, how_many_run())
        for _, where in ipairs({ coordinator, primary }) do
            assert.equal("shut down", at(where):control()["Database cluster state"])
        end
        cluster:must({ "start", "-a" })
        assert.equal(6, how_many_run())
        healthy()
        assert.equal(armed, at(primary):value("current_setting('synchronous_standby_names')"))
        writes(primary)
        writes(coordinator)
    end)

    it("leave clients their sessions when asked to", function()
        local session = cluster:session()
        session:ask("select 1")
        local result = cluster:moonrise({ "stop", "-a" })
        assert.equal(1, result.code)
        assert.matches("1 sessions of clients are open", result.err, 1, true)
        assert.equal(6, how_many_run())
        healthy()
        cluster:must({ "stop", "-a", "-M", "fast" })
        assert.equal(0, how_many_run())
        session:close()
        cluster:must({ "start", "-a" })
        healthy()
    end)

    it("restart, and reload", function()
        local before = at(primary):pid()
        cluster:must({ "stop", "-ar" })
        assert.are_not.equal(before, at(primary):pid())
        healthy()
        local when = at(mirror):value("pg_conf_load_time()")
        local said = cluster:must({ "stop", "-u" })
        assert.not_matches("Stop", said)
        wait.eventually("the mirror to have read its files again", wait.SOON_S, function()
            return at(mirror):value("pg_conf_load_time()") ~= when
        end)
        healthy()
    end)

    it("handle the coordinator alone, and restricted", function()
        cluster:must({ "stop", "-am" })
        assert.equal(5, how_many_run())
        cluster:must({ "start", "-amR" })
        local rules = "(select count(*) from pg_hba_file_rules where database = '{all}' " ..
            "and user_name = '{all}')"
        assert.equal("0", at(coordinator):value(rules))
        cluster:must({ "stop", "-am" })
        cluster:must({ "start", "-a" })
        assert.equal("1", at(coordinator):value(rules))
        healthy()
    end)

    it("bring back a mirror that was killed", function()
        at(mirror):kill()
        cluster:must({ "start", "-a" })
        wait.eventually("the mirror to stream", wait.SOON_S, function()
            return at(primary):value("(select sync_state from pg_stat_replication)") == "sync"
        end)
        writes(primary)
        healthy()
    end)

    it("name an instance that cannot be started, release its primary, start the rest", function()
        cluster:must({ "stop", "-a" })
        local epoch = mirror.datadir .. "/moonrise.epoch"
        place:must({ "mv", epoch, epoch .. ".away" })
        local result = cluster:moonrise({ "start", "-a" })
        assert.equal(1, result.code)
        assert.matches(mirror.datadir, result.err, 1, true)
        assert.matches("it has no epoch file of its own", result.err, 1, true)
        assert.equal(5, how_many_run())
        assert.equal("mnd", row(mirror))
        writes(primary)
        place:must({ "mv", epoch .. ".away", epoch })
        cluster:must({ "start", "-a" })
        healthy()
    end)

    it("start the rest when a primary does not", function()
        cluster:must({ "stop", "-a" })
        local file = primary.datadir .. "/global/pg_control"
        place:must({ "mv", file, file .. ".away" })
        local result = cluster:moonrise({ "start", "-a" })
        assert.equal(1, result.code)
        assert.matches("half-made", result.err, 1, true)
        assert.equal(5, how_many_run())
        assert.equal("psu", row(primary))
        place:must({ "mv", file .. ".away", file })
        cluster:must({ "start", "-a" })
        healthy()
    end)

    it("pick up a stop that was killed after the coordinator had gone", function()
        local server = at(primary)
        server:kill("STOP")
        finally(function()
            server:kill("CONT")
        end)
        local program = cluster:start({ "stop", "-a" })
        wait.eventually("the coordinator to be gone", wait.SOON_S, function()
            return not at(coordinator):running()
        end)
        program:kill("KILL")
        program:wait(wait.SOON_S)
        server:kill("CONT")
        cluster:must({ "stop", "-a" })
        assert.equal(0, how_many_run())
        local again = cluster:moonrise({ "stop", "-a" })
        assert.equal(1, again.code)
        assert.matches("the coordinator does not run", again.err, 1, true)
        cluster:must({ "start", "-a" })
        healthy()
    end)

    it("end a server that hangs", function()
        local server = at(mirror)
        server:kill("STOP")
        cluster:must({ "stop", "-a", "-M", "immediate", "-t", "2" })
        assert.equal(0, how_many_run())
        cluster:must({ "start", "-a" })
        healthy()
    end)

    it("start the rest while somebody works on a content, and say who", function()
        at(mirror):kill()
        at(cluster.config.segments[2].mirror):kill()
        local token = cluster:catalog(
            "select moonrise.lease_take(0, 'somebody', 'recover', 'copying', '1 minute') as token")
            [1].token
        local result = cluster:moonrise({ "start", "-a" })
        assert.equal(1, result.code)
        assert.matches("content 0 is in the hands of somebody (recover, copying)", result.err, 1,
            true)
        assert.matches("dbid %d+ %(content 0, .*: skipped", result.out)
        assert.is_false(at(mirror):running())
        assert.is_true(at(cluster.config.segments[2].mirror):running())
        cluster:catalog(("select moonrise.lease_drop(%s)"):format(token))
        cluster:must({ "start", "-a" })
        healthy()
    end)

    it("are no failures to the watcher", function()
        local first = cluster:journal_end()
        local watch = cluster:watch()
        local function wait_watching(times)
            wait.eventually("the watcher to watch", wait.SOON_S, function()
                return #cluster:journal({ kind = "watcher", since = first }) == times
            end)
        end
        wait_watching(1)
        cluster:must({ "stop", "-a" })
        assert.equal(0, how_many_run())
        assert.is_nil(watch:code())
        cluster:must({ "start", "-a" })
        wait_watching(2)
        wait.always("every instance to be up and in sync", 2, function()
            healthy()
            return true
        end)
        assert.same({}, cluster:journal({ since = first, kind = { "promote", "mirror_down",
            "failover", "out_of_sync", "in_sync", "release", "mark", "failed", "fault" } }))
        cluster:unwatch(10)
    end)

    it("refuse wrong options and wrong directories", function()
        local cases = {
            { { "stop", "-M", "gently" }, "-M wants smart, fast or immediate" },
            { { "stop", "-u", "-r" }, "cannot be combined" },
            { { "stop", "-m", "-y" }, "cannot be combined" },
            { { "start", "everything" }, "unexpected argument" },
            { { "stop" }, "needs an answer" },
        }
        for _, case in ipairs(cases) do
            local result = cluster:moonrise(case[1])
            assert.equal(2, result.code)
            assert.matches(case[2], result.err, 1, true)
        end
        local result = cluster:moonrise({ "start", "-a", "-d", standby.datadir })
        assert.equal(1, result.code)
        assert.matches("is a standby's directory", result.err, 1, true)
        result = cluster:moonrise({ "stop", "-a", "-d", place.dir })
        assert.equal(1, result.code)
        assert.matches("is not the data directory of a coordinator", result.err, 1, true)
        assert.equal(6, how_many_run())
    end)

    it("show the plan and do nothing when asked to", function()
        assert.matches("Stop all instances", cluster:must({ "stop", "--dry-run" }), 1, true)
        assert.matches("Start the cluster", cluster:must({ "start", "--dry-run" }), 1, true)
        assert.equal(6, how_many_run())
    end)
end)
