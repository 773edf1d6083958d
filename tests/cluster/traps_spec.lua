--- What PostgreSQL does when one looks away, and what becomes of it under moonrise (SAFETY.md).

local by_hand = require("tests.lib.by_hand")
local checkup = require("tests.lib.checkup")
local hurt = require("tests.lib.hurt")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local SOON_S = wait.SOON_S

describe("a pair", function()
    local place, cluster

    setup(function()
        place = place_of.new()
        cluster = by_hand.cluster(place)
    end)

    teardown(place_of.close_all)

    before_each(function()
        cluster:mend()
    end)

    after_each(function()
        cluster:unwatch(SOON_S)
    end)

    it("whose two servers were promoted apart does not become one again by a start", function()
        local primary, mirror = cluster:primary(0), cluster:mirror(0)
        cluster:must({ "stop", "-a" })
        local ours, theirs = by_hand.promote(primary, "ours"), by_hand.promote(mirror, "theirs")
        assert.are.equal(ours, theirs)
        by_hand.as_primary(primary)

        local result = cluster:moonrise({ "start", "-a" })
        assert.are.equal(1, result.code)
        assert.matches("promoted by somebody else", result.err)
        assert.is_false(mirror:running())
        assert.are.equal("d", cluster:mirror(0).status)
        assert.matches("differential", cluster:must({ "recoverseg", "-a" }))
        checkup.pair(cluster, 0)
        assert.are.equal("ours", cluster:mirror(0):value("select string_agg(who, ' ') from t"))
        -- It is a copy now, whose past is its primary's: nothing is held against it any more.
        cluster:must({ "stop", "-a" })
        cluster:must({ "start", "-a" })
        cluster:wait_healthy()
    end)

    it("whose mirror somebody has promoted is not released before that one is ended", function()
        local primary, mirror = cluster:primary(0), cluster:mirror(0)
        mirror:sql("select pg_promote()")
        mirror:sql("set synchronous_commit = local; insert into t values ('nobody''s')")
        local result = cluster:moonrise({ "start", "-a" })
        assert.are.equal(1, result.code)
        assert.matches("it is not a mirror by its files", result.err)
        assert.is_false(mirror:running())
        assert.is_nil(place_of.read(mirror.datadir .. "/global/pg_control"))
        assert.are.equal("d", cluster:mirror(0).status)
        primary:sql("insert into t values ('after')", { timeout_s = wait.SOON_S })
        cluster:recover()
        assert.are.equal("0", cluster:mirror(0):value(
            "(select count(*) from t where who = 'nobody''s')"))
    end)

    it("keeps the address it was started with, whatever is reloaded or restarted", function()
        local primary = cluster:primary(0)
        local function listens()
            return primary:value("select current_setting('listen_addresses')")
        end
        assert.are.equal("127.0.0.1", listens())
        primary:sql("alter system set listen_addresses = '*'")
        primary:sql("select pg_reload_conf()")
        place:must({ primary.bin .. "/pg_ctl", "restart", "-D", primary.datadir, "-m", "fast",
            "-w", "-l", primary.log })
        assert.are.equal("127.0.0.1", listens())
        primary:sql("alter system reset listen_addresses")
        cluster:must({ "stop", "-a" })
        primary:start()
        assert.are.equal("", listens())
        primary:stop()
        cluster:must({ "start", "-a" })
        cluster:wait_healthy()
        assert.are.equal("127.0.0.1", listens())
    end)

    it("is not failed over to a mirror that a promotion would end", function()
        local primary, mirror = cluster:primary(0), cluster:mirror(0)
        local limit = tonumber(primary:value("current_setting('max_connections')"))
        primary:sql(("alter system set max_connections = %d"):format(limit + 10))
        place:must({ primary.bin .. "/pg_ctl", "restart", "-D", primary.datadir, "-m", "fast",
            "-w", "-l", primary.log })
        -- It streams and acknowledges all the same.
        wait.eventually("the mirror to stream", SOON_S, function()
            return primary:value("(select state from pg_stat_replication)") == "streaming"
        end)
        primary:sql("insert into t values ('acknowledged')", { timeout_s = wait.SOON_S })
        cluster:watch():says("watching", SOON_S)
        wait.eventually("state -e to tell", SOON_S, function()
            local said = cluster:moonrise({ "state", "-e" })
            return said.code == 1 and said.out:find("its replay is paused", 1, true), said.out
        end)
        primary:kill()
        cluster:wait_journal({ kind = "refused", content = 0 }, SOON_S)
        assert.is_true(mirror:value("pg_is_in_recovery()") == "t")
        assert.are.equal(primary.dbid, cluster:primary(0).dbid)

        mirror:sql(("alter system set max_connections = %d"):format(limit + 10))
        cluster:must({ "stop", "-a", "-M", "fast" })
        cluster:must({ "start", "-a" })
        cluster:wait_healthy()
    end)

    it("releases nobody while its checkpointer does not read the order, and says why", function()
        local primary, mirror = cluster:primary(0), cluster:mirror(0)
        cluster:watch():says("watching", SOON_S)
        local thaw = hurt.stop_process(primary, "checkpointer")
        finally(thaw)
        mirror:kill()
        cluster:wait_row({ dbid = mirror.dbid, status = "d", mode = "n" }, SOON_S)
        local writer = primary:session()
        writer:send("insert into t values ('held') returning who")
        wait.eventually("the commit to wait", SOON_S, function()
            return primary:value("(select count(*) from pg_stat_activity " ..
                "where wait_event = 'SyncRep')") ~= "0"
        end)
        local said = cluster:moonrise({ "state", "-e" })
        assert.are.equal(1, said.code)
        assert.matches("the checkpointer has not read it yet", said.out)
        thaw()
        assert.matches("held", writer:answer(SOON_S))
        writer:close()
        cluster:recover()
    end)
end)
