--- `moonrise stop --host`: everything on one host is stopped and the cluster goes on, under writers
--- that keep a ledger. Both "hosts" are this one, by two of its names.

local cluster_of = require("tests.lib.cluster")
local dice_of = require("tests.lib.dice")
local place_of = require("tests.lib.place")
local shop = require("tests.lib.shop")
local wait = require("tests.lib.wait")

local HOST = "127.0.0.1"
local SOON_S = wait.SOON_S
local KILLS = os.getenv("MOONRISE_CAMPAIGN") and 40 or 1
-- An evacuation takes about as long.
local LATEST_S = 3

describe("stop --host", function()
    local place, cluster, writers
    local dice = dice_of.new()

    setup(function()
        place = place_of.new()
        -- Content 1 has its mirror beside its primary, on the coordinator's host.
        cluster = cluster_of.new(place, { segments = 2, standby = true, hba = shop.hba,
            hosts = { standby = HOST, mirror0 = HOST } })
        cluster:init()
        cluster:watched()
        writers = shop.open(cluster, 2)
    end)

    teardown(place_of.close_all)

    local function refused(code, ...)
        local before = cluster:rows()
        local result = cluster:moonrise({ ... })
        assert.are.equal(code, result.code, result.out .. result.err)
        assert.are.same(before, cluster:rows())
        return result.out .. result.err
    end

    -- Nothing runs there, and nobody waits for it.
    local function out_of_service()
        for _, row in ipairs(cluster:rows()) do
            if row.hostname == HOST then
                assert.are.equal("mdn", row.role .. row.status .. row.mode)
                assert.is_false(cluster:instance({ dbid = row.dbid }):running())
            end
        end
        assert.are.same({}, cluster:catalog("select * from content_lease"))
        for _, content in ipairs({ -1, 0 }) do
            assert.are.equal("", cluster:primary(content):value(
                "current_setting('synchronous_standby_names')"))
        end
    end

    -- The primary of content 0 on the host that is evacuated, all in sync.
    local function moved_there()
        cluster:mend()
        if cluster:primary(0).hostname ~= HOST then
            cluster:must({ "switchover", "-a", "0" })
        end
        cluster:wait_healthy()
    end

    it("names all that keeps a host from being evacuated, and touches nothing", function()
        local said = refused(1, "stop", "-a", "--host", "localhost")
        assert.matches("content %-1, localhost:%d+.*the coordinator is on this host", said)
        assert.matches("content 1, localhost:%d+.*its mirror is on the same host", said)
        assert.matches("Nothing was stopped: host localhost", said)
        assert.matches("no instance on host sdw7", refused(2, "stop", "-a", "--host", "sdw7"))
        refused(2, "stop", "--host", HOST)
        assert.matches("stopped, its primary goes on alone",
            refused(0, "stop", "--host", HOST, "--dry-run"))
    end)

    it("refuses a pair that is not in sync", function()
        moved_there()
        cluster:mirror(0):kill()
        cluster:wait_row({ content = 0, role = "m", status = "d" }, SOON_S)
        assert.matches("its mirror is not up and in sync", refused(1, "stop", "-a", "--host", HOST))
    end)

    it("hands primaries over, records mirrors as down, stops them, and loses nothing", function()
        moved_there()
        local old, since = cluster:primary(0), cluster:journal_end()
        local said = cluster:must({ "stop", "-a", "--host", HOST })
        assert.matches("content 0: roles changed, writers stalled", said)
        out_of_service()
        assert.are.equal(old.dbid, cluster:mirror(0).dbid)
        writers:progress(20, SOON_S)
        assert.are.same({}, cluster:journal({ kind = "failover", since = since }))
        -- Once more: there is nothing left to do.
        cluster:must({ "stop", "-a", "--host", HOST })
        out_of_service()
    end)

    it("is undone by start, or by recoverseg", function()
        cluster:must({ "start", "-a" })
        cluster:wait_healthy()
        cluster:must({ "stop", "-a", "--host", HOST })
        cluster:recover()
    end)

    it("is run again when it was killed", function()
        for _ = 1, KILLS do
            moved_there()
            local run = cluster:start({ "stop", "-a", "--host", HOST })
            dice:kill(run, LATEST_S)
            run:wait(SOON_S)
            wait.eventually("the host to be evacuated", wait.SOON_S, function()
                local said = cluster:moonrise({ "stop", "-a", "--host", HOST })
                return said.code == 0, said.out .. said.err
            end)
            out_of_service()
            writers:progress(10, SOON_S)
        end
    end)

    it("loses nothing", function()
        cluster:mend()
        shop.sound(writers:prove())
    end)
end)
