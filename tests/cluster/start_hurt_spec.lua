--- `moonrise start` and `moonrise stop` when something is amiss: what hangs, what is interrupted,
--- and what somebody else has made of a mirror meanwhile.

local cluster_of = require("tests.lib.cluster")
local pg = require("tests.lib.pg")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

-- `moonrise start` where servers let commits through while they start, as old minors do.
local START_OF_OLD_SERVERS = [[
require("lib.guard").server_waits = function()
    return false
end
return require("start")
]]

describe("start and stop, when something is amiss,", function()
    local place, cluster, coordinator, primary, mirror, standby

    setup(function()
        place = place_of.new()
        cluster = cluster_of.new(place, { segments = 1, standby = true,
            hba = { "local all all peer", "host all,replication moonrise 127.0.0.1/32 trust" } })
        cluster:init()
        coordinator, standby = cluster.config.coordinator, cluster.config.standby
        primary, mirror = cluster.config.segments[1].primary, cluster.config.segments[1].mirror
    end)

    teardown(place_of.close_all)

    -- What an earlier test left.
    before_each(function()
        cluster:moonrise({ "start", "-a" })
    end)

    local function at(where)
        return pg.at(place, where.datadir)
    end

    local function row(where)
        local found = cluster:catalog("select role, mode, status from gp_segment_configuration " ..
            "where port = " .. where.port)[1]
        return found.role .. found.mode .. found.status
    end

    local function healthy()
        for _, where in ipairs({ coordinator, primary }) do
            assert.equal("psu", row(where))
        end
        for _, where in ipairs({ standby, mirror }) do
            assert.equal("msu", row(where))
        end
        assert.equal("running", cluster:catalog("select state from cluster_state")[1].state)
        assert.same({}, cluster:catalog("select * from content_lease"))
    end

    local function writes(where)
        at(where):sql("create table if not exists t (i int); insert into t values (1)",
            { timeout_s = 10 })
    end

    local function names(where)
        return at(where):value("current_setting('synchronous_standby_names')")
    end

    it("let the superuser and moonrise in only, whatever lines for clients there are", function()
        cluster:must({ "stop", "-am" })
        cluster:must({ "start", "-amR" })
        local lines = at(coordinator):sql("select type, user_name, auth_method " ..
            "from pg_hba_file_rules order by line_number")
        local user = place:must({ "id", "-un" }):match("%S+")
        assert.same({ type = "local", user_name = "{" .. user .. "}", auth_method = "peer" },
            lines[1])
        for i = 2, #lines do
            assert.equal("{moonrise} scram-sha-256",
                lines[i].user_name .. " " .. lines[i].auth_method)
        end
        cluster:must({ "stop", "-am" })
        cluster:must({ "start", "-a" })
        healthy()
    end)

    it("let a coordinator write that is started alone, or without its standby", function()
        for _, flags in ipairs({ "-am", "-ay" }) do
            cluster:must({ "stop", "-a" })
            cluster:must({ "start", flags })
            assert.is_false(at(standby):running())
            assert.equal("mnd", row(standby))
            writes(coordinator)
            cluster:must({ "start", "-a" })
            healthy()
        end
    end)

    it("leave a standby that still streams in sync", function()
        cluster:must({ "stop", "-am" })
        cluster:must({ "start", "-am" })
        assert.equal("msu", row(standby))
        assert.matches("^mr_c_", names(coordinator))
        cluster:must({ "stop", "-ay" })
        assert.is_true(at(standby):running())
        cluster:must({ "start", "-ay" })
        healthy()
        writes(coordinator)
    end)

    it("let nobody go on alone while it is not known whether its mirror runs", function()
        local change = "set session_replication_role = replica; " ..
            "update gp_segment_configuration set hostname = '%s' where port = %d"
        cluster:catalog(change:format("nowhere", mirror.port))
        local result = cluster:moonrise({ "start", "-a" })
        cluster:catalog(change:format("localhost", mirror.port))
        assert.equal(1, result.code)
        assert.matches("nowhere", result.err, 1, true)
        assert.matches("its commits wait", result.err, 1, true)
        assert.matches("^mr_0_", names(primary))
        assert.equal("msu", row(mirror))
        cluster:must({ "start", "-a" })
        healthy()
    end)

    it("act on what the catalog says once nobody else can change it", function()
        local session = cluster:session("moonrise")
        session:ask("begin")
        session:ask("select from moonrise.cluster_state for update")
        local program = cluster:start({ "start", "-a" })
        wait.eventually("the start to wait for its leases", wait.SOON_S, function()
            return at(coordinator):value("(select count(*) from pg_stat_activity " ..
                "where application_name = 'moonrise catalog' and wait_event_type = 'Lock')") == "1"
        end)
        session:ask([[
            do $$ declare token bigint := moonrise.lease_take(0, 'somebody', 'x', 'x', '1 minute');
            begin
                perform moonrise.mirror_down(token, 0, 'somebody said so');
                perform moonrise.lease_drop(token);
            end $$]])
        session:ask("commit")
        session:close()
        assert.equal(0, program:wait(wait.SOON_S), program:output())
        assert.is_nil(program:output():find("not in sync", 1, true), program:output())
        healthy()
    end)

    it("record what a start lets through, also of a pair that is to be confirmed first", function()
        cluster:catalog([[with l as (select moonrise.lease_take(-1, 'spec', 'spec', 'x',
            '1 minute') as token)
            select moonrise.activated(token, 'spec'), moonrise.lease_drop(token) from l]])
        at(primary):kill()
        cluster:must({ "run", place:write("old.lua", START_OF_OLD_SERVERS), "-a" })
        assert.same({ "pnu", "mnu" }, { row(primary), row(mirror) })
        assert.same({ "pnu", "mnu" }, { row(coordinator), row(standby) })
        cluster:must({ "start", "-a" })
        healthy()
    end)

    it("take no instance for failed whose start was interrupted", function()
        cluster:must({ "stop", "-a" })
        local conf = mirror.datadir .. "/postgresql.auto.conf"
        local before = place_of.read(conf)
        local file = assert(io.open(conf, "a"))
        file:write("restore_command = 'tail -f /dev/null'\n")
        file:close()
        finally(function()
            at(mirror):stop("immediate")
            file = assert(io.open(conf, "w"))
            file:write(before)
            file:close()
        end)
        local program = cluster:start({ "start", "-a" })
        wait.eventually("the mirror to begin and its primary to be up", wait.SOON_S, function()
            return at(mirror):running() and at(primary):value("1")
        end)
        local armed = names(primary)
        program:kill("TERM")
        assert.equal(1, program:wait(wait.SOON_S))
        assert.equal("msu", row(mirror))
        assert.equal("stopped", cluster:catalog("select state from cluster_state")[1].state)
        assert.matches("^mr_0_", armed)
        assert.equal(armed, names(primary))
    end)

    it("kill nobody who is only slow to stop", function()
        local receiver = at(mirror):value("(select pid from pg_stat_wal_receiver)")
        place_of.kill(tonumber(receiver), "STOP")
        finally(function()
            place_of.kill(tonumber(receiver), "CONT")
        end)
        local pid = at(primary):pid()
        local result = cluster:moonrise({ "stop", "-a", "-M", "fast", "-t", "2" })
        assert.equal(1, result.code)
        assert.matches("did not stop within 2 s", result.err, 1, true)
        assert.matches("-M immediate", result.err, 1, true)
        assert.is_true(place_of.alive(pid))
        -- Its mirror is needed for that.
        assert.is_true(at(mirror):running())
        assert.is_nil(result.err:find(mirror.datadir, 1, true), result.err)
        place_of.kill(tonumber(receiver), "CONT")
        cluster:must({ "stop", "-a", "-M", "fast" })
        assert.equal("shut down", at(primary):control()["Database cluster state"])
        assert.is_false(at(mirror):running())
        cluster:must({ "start", "-a" })
        healthy()
    end)

    it("do not go on with a stop that a start has overtaken", function()
        local server = at(primary)
        server:kill("STOP")
        finally(function()
            server:kill("CONT")
        end)
        assert.equal(1, cluster:moonrise({ "stop", "-a", "-M", "fast", "-t", "2" }).code)
        server:kill("CONT")
        wait.eventually("the primary to have stopped", wait.SOON_S, function()
            return not server:running()
        end)
        cluster:must({ "start", "-a" })
        server = at(coordinator)
        server:kill("STOP")
        local result = cluster:moonrise({ "stop", "-a", "-M", "fast", "-t", "2" })
        assert.equal(1, result.code)
        assert.matches("its catalog cannot be reached", result.err, 1, true)
        server:kill("CONT")
        healthy()
    end)

    it("end a coordinator that hangs, and the rest with it, when told to", function()
        at(coordinator):kill("STOP")
        local result = cluster:moonrise({ "stop", "-a", "-M", "fast", "-t", "2" })
        assert.equal(1, result.code)
        assert.matches("the coordinator runs, and its catalog cannot be reached", result.err, 1,
            true)
        assert.matches("cause: ", result.err, 1, true)
        assert.matches("-M immediate", result.err, 1, true)
        result = cluster:moonrise({ "stop", "-a", "-M", "immediate", "-t", "2" })
        assert.equal(0, result.code, result.out .. result.err)
        assert.matches("killed", result.out, 1, true)
        for _, where in ipairs({ coordinator, primary, mirror, standby }) do
            assert.is_false(at(where):running(), where.datadir)
        end
        cluster:must({ "start", "-a" })
        healthy()
    end)

    it("end a standby that somebody promoted before its coordinator goes on alone", function()
        cluster:must({ "stop", "-a" })
        local ctl = pg.bin() .. "/pg_ctl"
        place:must({ ctl, "start", "-w", "-D", standby.datadir, "-l", place:path("standby.log") })
        place:must({ ctl, "promote", "-w", "-D", standby.datadir })
        writes(standby)
        local result = cluster:moonrise({ "start", "-ay" })
        assert.equal(1, result.code)
        assert.matches("it is not a mirror by its files", result.err, 1, true)
        assert.is_false(at(standby):running())
        assert.equal("mnd", row(standby))
        writes(coordinator)
    end)
end)
