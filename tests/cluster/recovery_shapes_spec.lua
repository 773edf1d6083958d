--- recoverseg on real servers: clusters of other shapes, and all that happens to databases and
--- tables while an instance is down.

local checkup = require("tests.lib.checkup")
local losing = require("tests.lib.losing")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")
local workload = require("tests.lib.workload")

local SOON_S = wait.SOON_S
local MB = 2 ^ 20

describe("recoverseg, of a cluster", function()
    local place, pair, cluster

    setup(function()
        place = place_of.new()
        pair = losing.pair(place, { segments = 1, hba = { "local replication all peer" },
            settings = { autovacuum = "off", allow_in_place_tablespaces = "on",
                min_wal_size = "128MB", max_wal_size = "128MB", wal_log_hints = "off" } })
        cluster = pair.cluster
        workload.fill(cluster:primary(0))
    end)

    teardown(place_of.close_all)

    before_each(function()
        pair:heal()
    end)

    local BEFORE = [[
        create table grows as select i, repeat('g', 500) from generate_series(1, 100) i;
        create table shrinks as select i, repeat('s', 500) as t from generate_series(1, 30000) i;
        create table empties as select i, repeat('t', 500) from generate_series(1, 30000) i;
        create table goes as select i, repeat('d', 500) from generate_series(1, 10000) i;
        create index on shrinks (i);
        create unlogged table unlogged as
            select i, repeat('u', 900) from generate_series(1, 9000) i;
        create index on unlogged (i)]]

    local WHILE_DOWN = { [[
        insert into grows select i, repeat('G', 500) from generate_series(1, 30000) i;
        delete from shrinks where i > 2000; vacuum shrinks;
        truncate empties; insert into empties select i, 'again' from generate_series(1, 10) i;
        drop table goes;
        insert into unlogged select i, repeat('v', 900) from generate_series(1, 9000) i;
        create unlogged table unlogged_later (i int primary key)]],
        "create database made", "drop database gone", "alter database moved set tablespace inside" }

    local function before(round)
        local primary = cluster:primary(0)
        primary:sql("drop table if exists grows, shrinks, empties, goes, unlogged, unlogged_later")
        primary:sql("drop database if exists made")
        primary:sql("drop database if exists moved")
        primary:sql(BEFORE, { timeout_s = 60 })
        primary:sql("create database gone")
        primary:sql("create database moved")
        primary:sql(("create table rows_%d as select i from generate_series(1, 5000) i")
            :format(round), { dbname = "moved" })
        cluster:mirror(0):catch_up(primary, 60)
    end

    local function while_down()
        for _, sql in ipairs(WHILE_DOWN) do
            cluster:primary(0):sql(sql, { timeout_s = 60 })
        end
    end

    -- While somebody watches, and the pair is in sync at the beginning.
    local function watched(fn)
        local watch = cluster:watch()
        watch:says("watching", SOON_S)
        cluster:wait_healthy()
        fn(watch)
        watch:kill("TERM")
        watch:wait(SOON_S)
    end

    -- The mirror as a primary, which makes unlogged tables anew from their init forks.
    local function fails_over()
        local old, mirror = cluster:primary(0), cluster:mirror(0)
        watched(function(watch)
            old:kill()
            cluster:wait_row({ dbid = mirror.dbid, role = "p", status = "u" }, SOON_S)
            wait.eventually("a primary that takes writes", SOON_S, function()
                return mirror:value("pg_is_in_recovery()") == "f", watch:output()
            end)
            cluster:wait_row({ dbid = old.dbid, role = "m", status = "d" }, SOON_S)
        end)
        return mirror
    end

    for round, kind in ipairs({ "differential", "full" }) do
        it("in which much has changed meanwhile: " .. kind, function()
            before(round)
            pair:lose()
            while_down()
            pair:recovers(kind, kind == "full" and "-F" or "--differential")
            local promoted = fails_over()
            assert.are.equal("0", promoted:value("(select count(*) from unlogged)"))
            promoted:sql("insert into unlogged_later values (1); insert into unlogged values (1)")
            assert.are.equal("5000", promoted:sql("select count(*) as n from rows_" .. round,
                { dbname = "moved" })[1].n)
            -- The old primary, and with it the roles, by a handover.
            pair:recovers("differential", "--differential")
        end)
    end

    it("with large unlogged tables: they are not read", function()
        pair:lose()
        pair:recovers("differential", "--differential")
        local without = tonumber(pair:last_recovery().bytes_done)
        cluster:primary(0):sql("create unlogged table large as select i, repeat('x', 900) from " ..
            "generate_series(1, 30000) i; create index on large (i)")
        pair:lose()
        pair:recovers("differential", "--differential")
        assert.is_true(tonumber(pair:last_recovery().bytes_done) < without + 4 * MB)
        cluster:primary(0):sql("drop table large")
    end)

    it("with a heavy writer, WAL beyond max_wal_size, and somebody else's backup", function()
        local primary = cluster:primary(0)
        local wal = primary:value("pg_current_wal_insert_lsn()")
        pair:lose()
        local writers = workload.start(primary, 4)
        writers:progress(SOON_S)
        local backup = place:start({ primary.bin .. "/pg_basebackup", "-h", primary.host, "-p",
            tostring(primary.port), "-D", place:path("backup"), "-c", "fast", "-r", "8M",
            "-X", "none" })
        local run = cluster:start({ "recoverseg", "-a", "--differential", "--max-rate", "12MB" })
        local more = ("pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '%s')"):format(wal)
        wait.eventually("the copy to be half made", SOON_S, function()
            return pair:half_made(), run:output()
        end)
        while tonumber(primary:value(more)) < 160 * MB do
            primary:sql("create table bulk as select repeat('x', 1000) from " ..
                "generate_series(1, 20000); drop table bulk", { timeout_s = 60 })
        end
        assert.is_not_nil(primary:sql("select pid from pg_stat_progress_basebackup")[1])
        assert.is_nil(run:code())
        assert.are.equal(0, run:wait(120), run:output())
        -- A mirror that is behind all the while is brought in sync by the watcher, when it can be.
        watched(function()
            writers:progress(SOON_S)
        end)
        writers:stop()
        assert.are.equal(0, backup:wait(120), backup:output())
        checkup.pair(cluster, 0)
    end)

    local function control_of(server, label)
        return server:control()[label]
    end

    it("without checksums and hints in the WAL", function()
        cluster:must({ "stop", "-a" })
        for _, name in ipairs({ "primary0", "mirror0" }) do
            place:must({ cluster.bin .. "/pg_checksums", "--disable", "-D", place:path(name) })
        end
        cluster:must({ "start", "-a" })
        cluster:wait_healthy()
        assert.are.equal("0", control_of(cluster:primary(0), "Data page checksum version"))
        assert.are.equal("off", control_of(cluster:primary(0), "wal_log_hints setting"))
        for kind, option in pairs({ differential = "--differential", full = "-F" }) do
            pair:lose()
            -- Hints that no WAL tells of.
            cluster:primary(0):sql("update big set t = reverse(t) where i % 50 = 0")
            cluster:primary(0):sql("checkpoint; select count(*) from big; checkpoint")
            pair:recovers(kind, option)
        end
    end)

    -- The primary's is changed, the mirror's is what the recovery makes it.
    local function resize_segments(size_mb)
        pair:lose()
        -- Without it the mirror is not merely started: it holds WAL that its primary lacks now.
        pair:sh('rm "$1/standby.signal"')
        local datadir = cluster:primary(0).datadir
        cluster:must({ "stop", "-a" })
        place:must({ cluster.bin .. "/pg_resetwal", "--wal-segsize", tostring(size_mb), "-D",
            datadir })
        cluster:moonrise({ "start", "-a" })
        assert.is_true(cluster:primary(0):running())
    end

    for size_mb, option in pairs({ [1] = "--differential", [64] = "-F" }) do
        it(("with WAL segments of %d MB"):format(size_mb), function()
            resize_segments(size_mb)
            pair:recovers("", option)
            for _, server in ipairs({ cluster:primary(0), cluster:mirror(0) }) do
                assert.are.equal(tostring(size_mb * MB),
                    control_of(server, "Bytes per WAL segment"))
            end
            -- The WAL's end is read in a handover.
            fails_over()
            pair:recovers("differential", "--differential")
        end)
    end
end)
