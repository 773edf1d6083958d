--- A machine at its limit is no failure: pgbench on every primary at once, with more clients than
--- processors, flushed to the disk, checkpoints close together, and nothing is decided, recorded or
--- promoted. MOONRISE_CAMPAIGN=1 makes it an hour.

local cluster_of = require("tests.lib.cluster")
local place_of = require("tests.lib.place")

local SPAN_S = tonumber(os.getenv("MOONRISE_LOAD_S"))
    or os.getenv("MOONRISE_CAMPAIGN") and 3600 or 12
local CLIENTS, SCALE = 16, 5

-- All that a failure would leave.
local FAULTS = { "state", "decision", "promote", "failover", "mirror_down", "out_of_sync",
    "release", "fence", "refused", "alert", "double_fault", "failed", "fault" }

describe("a machine at full load", function()
    local place, cluster, watch

    setup(function()
        place = place_of.new()
        cluster = cluster_of.new(place, { segments = 2, standby = true,
            settings = { fsync = "on", max_wal_size = "64MB" } })
        cluster:init()
        watch = cluster:watched()
    end)

    teardown(place_of.close_all)

    local function pgbench(server, ...)
        return { server.bin .. "/pgbench", "-h", server.host, "-p", tostring(server.port), ... }
    end

    it("is no failure", function()
        local busy = {}
        for content = 0, 1 do
            place:must(pgbench(cluster:primary(content), "-i", "-q", "-s", tostring(SCALE),
                "postgres"), { timeout_s = 120 })
        end
        cluster:wait_healthy()
        local last = cluster:journal_end()
        local before = cluster:rows()
        for content = 0, 1 do
            busy[content] = place:start(pgbench(cluster:primary(content), "-n", "-c",
                tostring(CLIENTS), "-j", "2", "-T", tostring(SPAN_S), "postgres"))
        end
        for content = 0, 1 do
            assert.are.equal(0, busy[content]:wait(SPAN_S + 120), busy[content]:output())
            assert.matches("number of failed transactions: 0 ", busy[content]:output())
        end
        assert.are.same({}, cluster:journal({ kind = FAULTS, since = last }))
        assert.are.same(before, cluster:rows())
        assert.is_nil(watch:code())
    end)
end)
