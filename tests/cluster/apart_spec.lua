--- Two servers of a pair that somebody has made primaries of their own, and mirrors again: history
--- is content, not a number (SAFETY.md, rule 9). Nothing streams from the wrong one for long, and
--- nothing is built on it.

local by_hand = require("tests.lib.by_hand")
local checkup = require("tests.lib.checkup")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local SOON_S = wait.SOON_S
local LISTENS = "-c listen_addresses=127.0.0.1"

describe("a pair whose servers were parted by hand", function()
    local place, cluster

    setup(function()
        place = place_of.new()
        cluster = by_hand.cluster(place)
    end)

    teardown(place_of.close_all)

    after_each(function()
        cluster:unwatch(SOON_S)
        cluster:mend()
    end)

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
        by_hand.run(primary, "ours")
        by_hand.run(mirror, "thrs")
        by_hand.as_standby(mirror)
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
        by_hand.run(primary, "ours, later")
        -- Nothing but that second tells them apart: positions, lengths and ids are the same.
        local stopped = os.time()
        wait.eventually("another second", SOON_S, function()
            return os.time() > stopped + 1
        end)
        by_hand.run(mirror, "theirs, now")
        by_hand.as_standby(mirror)
        primary:start({ line = LISTENS })
        mirror:start({ line = LISTENS })
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
        assert.are.equal(by_hand.promote(primary, "one"), by_hand.promote(mirror, "two"))
        by_hand.as_primary(primary)
        primary:start({ line = LISTENS })
        mirror:start({ line = LISTENS })
        assert.are.equal("s", cluster:mirror(0).mode)
        wait.eventually("the mirror to stream happily", SOON_S, function()
            return primary:value("select state from pg_stat_replication") == "streaming"
        end)
        cluster:watch()
        not_taken(mirror, "promoted by somebody else")
    end)
end)
