--- recoverseg to another place, on real servers: where everything is afterwards, and what is left.

local checkup = require("tests.lib.checkup")
local losing = require("tests.lib.losing")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local SOON_S = wait.SOON_S
local SETTINGS = { autovacuum = "off" }

describe("recoverseg to another place:", function()
    local place, pair, cluster

    setup(function()
        place = place_of.new()
        -- With a standby whoever joins the cluster has to record its pair first.
        pair = losing.pair(place, { standby = true, settings = SETTINGS, rows = 20000 })
        cluster = pair.cluster
    end)

    teardown(place_of.close_all)

    before_each(function()
        pair:heal()
    end)

    local function line_of(server)
        return ("%s|%s|%s|%s"):format(server.hostname, server.address, server.port, server.datadir)
    end

    -- A place on this machine, by another of its names unless named.
    local function new_place(name, host)
        return { hostname = host or "localhost", address = host or "127.0.0.1",
                 port = place_of.free_port(), datadir = place:path(name) }
    end

    local function file_of(...)
        return place:write("moves", table.concat({ ... }, "\n") .. "\n")
    end

    local function hba(server)
        return place_of.read(server.datadir .. "/pg_hba.conf")
    end

    local function is_at(to)
        local mirror = cluster:mirror(0)
        assert.are.same({ to.hostname, to.address, to.port, to.datadir },
            { mirror.hostname, mirror.address, tonumber(mirror.port), mirror.datadir })
        return mirror
    end

    local function moves(to)
        return { "recoverseg", "-a", "-i", file_of(line_of(pair.target) .. " " .. line_of(to)) }
    end

    -- It lives at its new place alone, as if it always had.
    local function has_moved(to)
        local mirror = is_at(to)
        checkup.pair(cluster, 0)
        assert.is_nil(place_of.read(pair.target.datadir .. "/PG_VERSION"))
        assert.are.same({}, cluster:catalog("select * from left_place"))
        assert.are.equal(tostring(to.port), mirror:value("current_setting('port')"))
        return mirror
    end

    it("the same host, another directory and port; it stays there", function()
        pair:lose()
        local to = new_place("elsewhere")
        local out = cluster:must(moves(to))
        assert.matches("to +localhost:" .. to.port .. ":" .. to.datadir, out)
        has_moved(to)
        cluster:must({ "stop", "-a" })
        cluster:must({ "start", "-a" })
        cluster:wait_healthy()
        assert.matches("All segments are running normally", cluster:must({ "state", "-e" }))
        pair:heal()
        pair:lose()
        local port = to.port
        to.port = place_of.free_port()
        assert.matches("recovered by differential", cluster:must(moves(to)))
        assert.are.equal(to.datadir, is_at(to).datadir)
        checkup.pair(cluster, 0)
        assert.are_not.equal(port, to.port)
        assert.are.same({}, cluster:catalog("select * from left_place"))
    end)

    it("another host, which is let in where it has to be, and out when it leaves", function()
        local own = "host all all 192.0.2.7/32 scram-sha-256"
        local primary, coordinator = cluster:primary(0), cluster:coordinator()
        primary.place:must({ "sh", "-c", 'echo "$2" >>"$1"', "sh",
            primary.datadir .. "/pg_hba.conf", own })
        pair:lose()
        local to = new_place("away", "::1")
        cluster:must(moves(to))
        local mirror = has_moved(to)
        local record = cluster:state_file("coordinator." .. cluster:coordinator():value(
            "(select system_identifier from pg_control_system())") .. ".::1")
        assert.matches("standby", place_of.read(record))
        local line = "host postgres,replication moonrise ::1/128 scram-sha-256"
        assert.matches(line, hba(primary), 1, true)
        assert.matches(line, hba(mirror), 1, true)
        assert.matches("moonrise ::1/128", hba(coordinator), 1, true)
        assert.matches(own, hba(primary), 1, true)
        pair:heal()
        pair:lose()
        to = new_place("back")
        cluster:must(moves(to))
        has_moved(to)
        for _, server in ipairs({ primary, coordinator, cluster:mirror(0) }) do
            assert.is_nil(hba(server):find("::1", 1, true))
        end
        assert.matches(own, hba(primary), 1, true)
    end)

    it("fails over to it, and gives the role back", function()
        pair:lose()
        local to = new_place("successor", "::1")
        cluster:must(moves(to))
        local watch = cluster:watched()
        local primary = cluster:primary(0)
        primary:kill()
        cluster:wait_row({ dbid = pair.target.dbid, role = "p", hostname = "::1" }, SOON_S)
        cluster:wait_row({ dbid = primary.dbid, role = "m", status = "d" }, SOON_S)
        cluster:recover()
        cluster:must({ "recoverseg", "-a", "-r" })
        cluster:wait_healthy(nil, true)
        watch:kill("TERM")
        watch:wait(SOON_S)
        has_moved(to)
    end)

    it("what will not do is refused, and nothing is touched", function()
        pair:lose()
        local to, before = new_place("full"), hba(cluster:primary(0))
        place:must({ "mkdir", "-p", to.datadir .. "/something" })
        local function refused(words)
            local rows = cluster:rows()
            local result = cluster:moonrise(moves(to))
            assert.are.equal(1, result.code, result.out .. result.err)
            assert.matches(words, result.err)
            assert.are.same(rows, cluster:rows())
            assert.are.same({}, cluster:catalog("select * from left_place"))
            assert.are.equal(before, hba(cluster:primary(0)))
        end
        refused("is not empty")
        to = new_place("elsewhere_too")
        to.port = cluster:primary(0).port
        to.hostname, to.address = "127.0.0.1", "127.0.0.1"
        refused("no server can listen on port " .. to.port)
        to = new_place("unknown")
        to.address = "nowhere.invalid"
        refused("cannot resolve the address nowhere.invalid")
        to = new_place("other name", "127.0.0.1")
        to.datadir = pair.target.datadir
        refused("its new directory is its old one")
    end)

    it("keeps the old directory, sealed, until the new one is in sync", function()
        pair:lose()
        local primary, old, to = cluster:primary(0), pair.target, new_place("patient")
        primary:sql("alter system set synchronous_commit = local")
        primary:sql("select pg_reload_conf()")
        cluster:must(moves(to))
        is_at(to)
        cluster:wait_row({ dbid = old.dbid, status = "u", mode = "n" }, SOON_S)
        assert.is_not_nil(place_of.read(old.datadir .. "/PG_VERSION"))
        assert.is_nil(place_of.read(old.datadir .. "/global/pg_control"))
        local start = place:run({ old.bin .. "/pg_ctl", "-D", old.datadir, "-w", "start" })
        assert.are_not.equal(0, start.code)
        assert.matches(old.datadir, cluster:moonrise({ "state", "-e" }).out, 1, true)
        local watch = cluster:watch()
        primary:sql("alter system reset synchronous_commit")
        primary:sql("select pg_reload_conf()")
        cluster:wait_healthy()
        wait.eventually("the old directory to go", wait.SOON_S, function()
            return not place_of.read(old.datadir .. "/PG_VERSION"), watch:output()
        end)
        wait.eventually("it to be forgotten", SOON_S, function()
            return #cluster:catalog("select * from left_place") == 0
        end)
        watch:kill("TERM")
        watch:wait(SOON_S)
        has_moved(to)
    end)

    -- Has a change of the instance's row fail, or wait for whoever holds a lock.
    local function at_update(condition, body)
        cluster:catalog([[create function moonrise.spec_gate() returns trigger language plpgsql as
            $$ begin ]] .. body .. [[; return new; end $$]])
        cluster:catalog(([[create trigger spec_gate before update on gp_segment_configuration
            for each row when (%s) execute function moonrise.spec_gate()]]):format(condition))
        finally(function()
            cluster:catalog("drop function if exists moonrise.spec_gate cascade")
        end)
    end

    local MOVES = "old.datadir <> new.datadir"

    local function slots()
        return cluster:primary(0):sql("select slot_name from pg_replication_slots")
    end

    it("after a failure all is as it was, and the copy is gone on with", function()
        pair:lose()
        cluster:primary(0):sql(("select pg_drop_replication_slot('mr_slot_%s')"):format(
            pair.target.dbid))
        local to, before, rows = new_place("late", "::1"), hba(cluster:primary(0)), cluster:rows()
        at_update(MOVES, "raise exception 'the gate is shut'")
        local result = cluster:moonrise(moves(to))
        assert.are.equal(1, result.code)
        assert.matches("the gate is shut", result.err)
        assert.are.same(rows, cluster:rows())
        assert.are.equal(before, hba(cluster:primary(0)))
        assert.are.same({}, slots())
        assert.is_nil(place_of.read(to.datadir .. "/postmaster.pid"))
        assert.is_not_nil(place_of.read(pair.target.datadir .. "/global/pg_control"))
        cluster:catalog("drop function moonrise.spec_gate cascade")
        local out = cluster:must(moves(to))
        assert.matches("an earlier run is gone on with", out)
        has_moved(to)
    end)

    it("says that it has moved when only its start is not on record", function()
        pair:lose()
        local to = new_place("unrecorded", "::1")
        at_update("new.status = 'u'", "raise exception 'the gate is shut'")
        local result = cluster:moonrise(moves(to))
        assert.are.equal(1, result.code, result.out)
        assert.are.equal("d", is_at(to).status)
        assert.is_nil(result.out:find("its catalog row is as before", 1, true), result.out)
        assert.matches("its catalog row has moved", result.out, 1, true)
        cluster:catalog("drop function moonrise.spec_gate cascade")
        cluster:must({ "recoverseg", "-a" })
        has_moved(to)
    end)

    it("one that was begun and is not wanted any more leaves nothing", function()
        pair:lose()
        local to, before = new_place("given_up", "::1"), hba(cluster:primary(0))
        at_update(MOVES, "raise exception 'the gate is shut'")
        assert.are.equal(1, cluster:moonrise(moves(to)).code)
        assert.are.equal(1, #cluster:catalog("select * from left_place"))
        cluster:must({ "recoverseg", "-a" })
        checkup.pair(cluster, 0)
        assert.are.same({}, cluster:catalog("select * from left_place"))
        assert.are.equal(before, hba(cluster:primary(0)))
        assert.is_nil(place_of.read(to.datadir .. "/PG_VERSION"))
    end)
end)
