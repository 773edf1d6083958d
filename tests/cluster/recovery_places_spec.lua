--- recoverseg on real servers: WAL and tablespaces that lie elsewhere.

local compare = require("tests.lib.compare")
local losing = require("tests.lib.losing")
local namespace = require("tests.lib.namespace")
local place_of = require("tests.lib.place")
local workload = require("tests.lib.workload")

local SETTINGS = { autovacuum = "off", allow_in_place_tablespaces = "on" }

describe("recoverseg, with", function()
    local place, pair, cluster, alone, why_not

    setup(function()
        alone, why_not = namespace.enter()
        place = place_of.new()
        pair = losing.pair(place, { segments = 1, settings = SETTINGS })
        cluster = pair.cluster
        workload.fill(cluster:primary(0))
    end)

    teardown(place_of.close_all)

    before_each(function()
        pair:heal()
    end)

    local function link_of(path)
        return place:must({ "readlink", path }):match("[^\n]+")
    end

    -- Has a server's pg_wal be a link, for which both are stopped; returns where it leads to.
    local function linked_wal(server)
        local to = place:path("wal_" .. server.dbid)
        if place:run({ "test", "-L", server.datadir .. "/pg_wal" }).code == 0 then
            return to
        end
        cluster:must({ "stop", "-a" })
        place:must({ "sh", "-c", 'mv "$1/pg_wal" "$2" && ln -s "$2" "$1/pg_wal"', "sh",
            server.datadir, to })
        cluster:must({ "start", "-a" })
        cluster:wait_healthy()
        return to
    end

    -- A file that only the source has in its WAL, and a segment that only the target has.
    local function leave_traces(source_wal, target_wal)
        place:must({ "sh", "-c", 'echo ours >"$1/ours"; echo stale >"$2/0000000900000000000000FF"',
            "sh", source_wal, target_wal })
    end

    local function check_traces(source_wal, target_wal)
        assert.are.equal("ours\n", place_of.read(source_wal .. "/ours"))
        assert.is_nil(place_of.read(source_wal .. "/0000000900000000000000FF"))
        assert.is_nil(place_of.read(target_wal .. "/0000000900000000000000FF"))
        assert.is_nil(place_of.read(target_wal .. "/ours"))
    end

    it("a pg_wal that is a link on the source only", function()
        local source = cluster:primary(0)
        local wal = linked_wal(source)
        for kind, option in pairs({ differential = "--differential", full = "-F" }) do
            pair:lose()
            leave_traces(wal, pair.target.datadir .. "/pg_wal")
            pair:recovers(kind, option)
            check_traces(wal, pair.target.datadir .. "/pg_wal")
            assert.are.equal(wal, link_of(source.datadir .. "/pg_wal"))
            place:must({ "test", "!", "-L", pair.target.datadir .. "/pg_wal" })
        end
    end)

    it("a pg_wal that is a link on both sides, each with its own", function()
        local source_wal, target_wal = linked_wal(cluster:primary(0)), linked_wal(pair.target)
        for kind, option in pairs({ differential = "--differential", full = "-F" }) do
            pair:lose()
            leave_traces(source_wal, target_wal)
            pair:recovers(kind, option)
            check_traces(source_wal, target_wal)
            assert.are.equal(target_wal, link_of(pair.target.datadir .. "/pg_wal"))
            assert.are.equal(source_wal, link_of(cluster:primary(0).datadir .. "/pg_wal"))
        end
    end)

    it("a pg_wal that leads to the source's: refused, and the source keeps it", function()
        local source_wal, own = linked_wal(cluster:primary(0)), linked_wal(pair.target)
        pair:lose()
        pair:sh('ln -sfn "$2" "$1/pg_wal"', source_wal)
        leave_traces(source_wal, own)
        pair:fails("same directory", "--differential")
        pair:fails("same directory", "-F")
        assert.are.equal("ours\n", place_of.read(source_wal .. "/ours"))
        pair:sh('ln -sfn "$2" "$1/pg_wal"', own)
        pair:recovers("")
    end)

    local function fill_space(name, path)
        local primary = cluster:primary(0)
        place:must({ "mkdir", "-p", "-m", "700", path })
        primary:sql(("create tablespace %s location '%s'"):format(name, path))
        primary:sql(("create table in_%s tablespace %s as select i, md5(i::text) from " ..
            "generate_series(1, 20000) i"):format(name, name))
        return primary:value(("select oid from pg_tablespace where spcname = '%s'"):format(name))
    end

    it("a tablespace inside of the data directory: it goes to the same place there", function()
        pair:lose()
        local oid = fill_space("within", cluster:primary(0).datadir .. "/spaces/within")
        pair:recovers("differential", "--differential")
        assert.are.equal(pair.target.datadir .. "/spaces/within",
            link_of(pair.target.datadir .. "/pg_tblspc/" .. oid))
        pair:lose()
        pair:recovers("full", "-F")
    end)

    it("a tablespace outside: refused until it is mapped, once", function()
        pair:lose()
        local old, new = place:path("outside"), place:path("elsewhere")
        local oid = fill_space("outside", old)
        local result = pair:fails("would share", "--differential")
        assert.matches("--tablespace-mapping " .. old .. "=", result.err, 1, true)
        pair:fails("the source uses it", "--differential", "--tablespace-mapping",
            old .. "=" .. old)
        -- What is refused has changed nothing.
        assert.is_not_nil(place_of.read(pair.target.datadir .. "/global/pg_control"))
        local function goes_there()
            assert.are.equal(new, link_of(pair.target.datadir .. "/pg_tblspc/" .. oid))
            assert.are.equal(old, link_of(cluster:primary(0).datadir .. "/pg_tblspc/" .. oid))
        end
        pair:recovers("differential", "--differential", "--tablespace-mapping", old .. "=" .. new)
        goes_there()
        for kind, option in pairs({ differential = "--differential", full = "-F" }) do
            pair:lose()
            cluster:primary(0):sql("update in_outside set md5 = reverse(md5) where i % 100 = 0")
            pair:recovers(kind, option)
            goes_there()
        end
    end)

    local SUM = "(select count(*) || ' ' || sum(hashtext(md5)) from in_same)"

    -- Where a link leads to cannot be followed from here for both: sizes by hand, contents by SQL.
    local function same_space(source_dir, target_dir)
        local primary, mirror = cluster:primary(0), cluster:mirror(0)
        compare.settle(primary, mirror)
        local list = [[cd "$1" && find . -type f -name '[1-9]*' ! -name '*_fsm' |
            xargs stat -c '%n %s' | sort]]
        local ours = place:must({ "sh", "-c", list, "sh", source_dir })
        assert.are_not.equal("", ours)
        assert.are.equal(ours, place:must({ "sh", "-c", list, "sh", target_dir }))
        assert.are.equal(primary:value(SUM), mirror:value(SUM))
    end

    local function restart_primary(start)
        cluster:primary(0):stop()
        start()
        cluster:wait_healthy()
    end

    local function start()
        cluster:must({ "start", "-a" })
    end

    it("a tablespace of the same path, which leads each to a directory of its own", function()
        if not alone then
            return pending(why_not)
        end
        local path, theirs = place:path("same"), place:path("same_of_source")
        place:must({ "mkdir", "-m", "700", path, theirs })
        restart_primary(function()
            namespace.apart(function()
                namespace.bind(theirs, path)
                start()
            end)
        end)
        fill_space("same", path)
        same_space(theirs, path)
        for kind, option in pairs({ differential = "--differential", full = "-F" }) do
            pair:lose()
            cluster:primary(0):sql("update in_same set md5 = reverse(md5) where i % 100 = 0; " ..
                "insert into in_same select i, md5(i::text) from generate_series(1, 9999) i")
            pair:recovers(kind, option)
            same_space(theirs, path)
        end
        -- Otherwise both would have the one directory from here on.
        cluster:primary(0):sql("drop table in_same")
        cluster:primary(0):sql("drop tablespace same")
        compare.settle(cluster:primary(0), cluster:mirror(0))
        restart_primary(start)
    end)
end)
