--- receivewal of a content of a cluster: it follows the primary over a failover, with its slot, and
--- never counts for a commit.

local cluster_of = require("tests.lib.cluster")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local SOON_S = wait.SOON_S

describe("receivewal of a content", function()
    local place, cluster

    setup(function()
        place = place_of.new()
        cluster = cluster_of.new(place, { hosts = { mirror0 = "127.0.0.1" },
            settings = { wal_keep_size = "256MB" } })
        cluster:init()
    end)

    teardown(place_of.close_all)

    local function new_dir(name)
        place:must({ "mkdir", "-m", "700", place:path(name) })
        return place:path(name)
    end

    local function files(dir)
        return place:must({ "ls", dir })
    end

    -- Ends the primary's segment; its name.
    local function switch()
        local primary = cluster:primary(0)
        primary:sql("create table if not exists t (n int)")
        primary:sql("insert into t values (1)")
        return primary:value("pg_walfile_name(pg_switch_wal())")
    end

    local function received(dir, name)
        wait.eventually(name .. " to be received", SOON_S, function()
            return files(dir):find(name .. "\n", 1, true)
        end)
        place:must({ "cmp", dir .. "/" .. name,
            cluster:primary(0).datadir .. "/pg_wal/" .. name })
    end

    it("wants one that the cluster has, and a server that does not count it", function()
        local dir = new_dir("refused")
        for _, case in ipairs({
            { 2, "the cluster has no content 7", { "--content", "7" } },
            { 2, "the cluster has no dbid 99", { "--dbid", "99" } },
            { 2, "cannot be combined", { "--content", "0", "--dbid", "2" } },
            { 2, "the catalog knows where it is", { "--content", "0", "-p", "5" } },
            { 2, "commits wait for the mirror only", { "--content", "0", "--synchronous" } },
        }) do
            local result = cluster:moonrise({ "receivewal", "-D", dir, unpack(case[3]) })
            assert.are.equal(case[1], result.code, result.err)
            assert.matches(case[2], result.err, 1, true)
        end
        local primary = cluster:primary(0)
        local armed = primary:value("current_setting('synchronous_standby_names')")
        primary:sql("alter system set synchronous_standby_names = '*'")
        primary:sql("select pg_reload_conf()")
        local result = cluster:moonrise({ "receivewal", "-D", dir, "--content", "0" })
        primary:sql(("alter system set synchronous_standby_names = '%s'"):format(armed))
        primary:sql("select pg_reload_conf()")
        assert.are.equal(1, result.code)
        assert.matches("in its mirror's place", result.err, 1, true)
        assert.are.equal("", files(dir))
    end)

    it("receives from a mirror that is named", function()
        local dir = new_dir("of_mirror")
        local program = cluster:start({ "receivewal", "-v", "-D", dir, "--dbid",
            cluster:mirror(0).dbid })
        program:says("starting log streaming", SOON_S)
        received(dir, switch())
        program:kill()
        assert.are.equal(0, program:wait(SOON_S), program:output())
    end)

    it("goes on from the mirror that took over, with its slot", function()
        local dir = new_dir("followed")
        cluster:watched()
        finally(function()
            cluster:unwatch(SOON_S)
        end)
        cluster:must({ "receivewal", "--content", "0", "-S", "archive", "--create-slot" })
        local program = cluster:start({ "receivewal", "-v", "-D", dir, "--content", "0",
            "-S", "archive" })
        program:says("starting log streaming", SOON_S)
        received(dir, switch())
        local primary, mirror = cluster:primary(0), cluster:mirror(0)
        assert.are.equal("async", primary:value("select sync_state from pg_stat_replication " ..
            "where application_name = 'moonrise receivewal'"))
        primary:kill()
        cluster:wait_row({ dbid = mirror.dbid, role = "p" }, SOON_S)
        wait.eventually("the promotion", SOON_S, function()
            return mirror:value("pg_is_in_recovery()") == "f"
        end)
        local name = switch()
        assert.matches("^00000002", name)
        received(dir, name)
        assert.matches("00000002.history\n", files(dir), 1, true)
        program:says("[%[]INFO[%]]:%-starting log streaming.-timeline 2", SOON_S)
        assert.are.equal("t", mirror:value("select active from pg_replication_slots " ..
            "where slot_name = 'archive'"))
        -- Roles are returned: what was the primary keeps no WAL for it.
        cluster:recover()
        cluster:must({ "recoverseg", "-a", "-r" })
        received(dir, switch())
        local slots = "(select count(*) from pg_replication_slots where slot_name = 'archive')"
        assert.are.equal("1", primary:value(slots))
        wait.eventually("the slot that was left to go", SOON_S, function()
            return mirror:value(slots) == "0"
        end)
        program:kill("INT")
        assert.are.equal(0, program:wait(SOON_S), program:output())
    end)
end)
