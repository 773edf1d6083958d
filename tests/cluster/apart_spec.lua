--- Two servers of a pair that somebody has made primaries of their own, and mirrors again: history
--- is content, not a number (SAFETY.md, rule 9). Nothing streams from the wrong one for long, and
--- nothing is built on it.

local checkup = require("tests.lib.checkup")
local cluster_of = require("tests.lib.cluster")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local SOON_S = 60
local BY_HAND = "-c listen_addresses=127.0.0.1"

describe("a pair whose servers were parted by hand", function()
    local place, cluster

    setup(function()
        place = place_of.new()
        cluster = cluster_of.new(place, { segments = 1, settings = { autovacuum = "off" } })
        cluster:init()
        cluster:primary(0):sql("create extension amcheck; create table t (who text)")
    end)

    teardown(place_of.close_all)

    after_each(function()
        cluster:unwatch(SOON_S)
        cluster:mend()
    end)

    local function pg_ctl(server, mode, ...)
        place:must({ server.bin .. "/pg_ctl", mode, "-D", server.datadir, "-l", server.log, "-w",
            ... })
    end

    local function as_standby(server)
        place:write(server.name .. "/standby.signal", "")
    end

    local function writes(server, who)
        server:sql(("set synchronous_commit = local; insert into t values ('%s')"):format(who))
    end

    -- From a standby that is stopped to one that is stopped, with a timeline and a row of its own.
    local function promote_apart(server, who)
        as_standby(server)
        server:start()
        server:sql("select pg_promote()")
        writes(server, who)
        server:stop()
        as_standby(server)
        return place_of.read(server.datadir .. "/pg_wal/00000002.history")
    end

    -- The same without a timeline: nobody promotes a server that is no standby by its files.
    local function run_apart(server, who)
        os.remove(server.datadir .. "/standby.signal")
        server:start()
        writes(server, who)
        server:stop()
    end

    local function who_is_on(server)
        return server:value("select string_agg(who, ' ' order by who) from t")
    end

    -- It is found out, and is a true copy once it was recovered.
    local function not_taken(mirror, why)
        local row = cluster:wait_row({ dbid = mirror.dbid, status = "d", mode = "n" }, SOON_S)
        cluster:wait_journal({ content = 0, text = why }, SOON_S)
        cluster:primary(0):sql("insert into t values ('goes on')", { timeout_s = SOON_S })
        assert.matches("differential", cluster:must({ "recoverseg", "-a" }))
        checkup.pair(cluster, 0)
        local primary = cluster:primary(0)
        assert.are.equal(who_is_on(primary), who_is_on(cluster:instance({ dbid = row.dbid })))
    end

    it("without a timeline: start does not take it for a mirror", function()
        local primary, mirror = cluster:primary(0), cluster:mirror(0)
        cluster:must({ "stop", "-a" })
        run_apart(primary, "ours")
        run_apart(mirror, "thrs")
        as_standby(mirror)
        local result = cluster:moonrise({ "start", "-a" })
        assert.are.equal(1, result.code)
        assert.matches("it has run as a primary", result.err)
        assert.is_false(mirror:running())
        not_taken(mirror, "its start failed")
        assert.are.equal("goes on ours", who_is_on(cluster:mirror(0)))
    end)

    it("without a timeline, and brought back by hand: the watcher does not believe it", function()
        local primary, mirror = cluster:primary(0), cluster:mirror(0)
        mirror:stop("immediate")
        primary:stop("immediate")
        run_apart(primary, "ours, later")
        -- Nothing but that second tells them apart: positions, lengths and ids are the same.
        local stopped = os.time()
        wait.eventually("another second", SOON_S, function()
            return os.time() > stopped + 1
        end)
        run_apart(mirror, "theirs, now")
        as_standby(mirror)
        pg_ctl(primary, "start", "-o", BY_HAND)
        pg_ctl(mirror, "start", "-o", BY_HAND)
        assert.are.equal("s", cluster:mirror(0).mode)
        local result = cluster:moonrise({ "restart", "-a", "--dbid", mirror.dbid })
        assert.are.equal(1, result.code)
        assert.matches("would not be started again: its last checkpoint", result.err)
        assert.is_true(mirror:running())
        cluster:watch()
        not_taken(mirror, "it has run as a primary")
    end)

    it("promoted both, on the same timeline, streaming, in sync: nor that", function()
        local primary, mirror = cluster:primary(0), cluster:mirror(0)
        mirror:stop("immediate")
        primary:stop("immediate")
        assert.are.equal(promote_apart(primary, "one"), promote_apart(mirror, "two"))
        os.remove(primary.datadir .. "/standby.signal")
        pg_ctl(primary, "start", "-o", BY_HAND)
        pg_ctl(mirror, "start", "-o", BY_HAND)
        assert.are.equal("s", cluster:mirror(0).mode)
        wait.eventually("the mirror to stream happily", SOON_S, function()
            return primary:value("select state from pg_stat_replication") == "streaming"
        end)
        cluster:watch()
        not_taken(mirror, "promoted by somebody else")
    end)
end)
