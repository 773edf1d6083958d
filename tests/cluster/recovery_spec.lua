--- recoverseg on real servers: the types of recovery, with writers all the while.

local checkup = require("tests.lib.checkup")
local compare = require("tests.lib.compare")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")
local workload = require("tests.lib.workload")

local SOON_S = wait.SOON_S

-- WAL grows past max_wal_size in each of these recoveries. Vacuum's page images would hide on the
-- mirror what a recovery copied wrong.
local SETTINGS = { max_wal_size = "32MB", min_wal_size = "32MB", autovacuum = "off",
    allow_in_place_tablespaces = "on" }

describe("recoverseg", function()
    local place, cluster
    local round = 0

    setup(function()
        place = place_of.new()
        cluster = workload.cluster(place, SETTINGS)
    end)

    teardown(place_of.close_all)

    -- Whatever a test left, the next one finds a pair in sync.
    before_each(function()
        cluster:mend()
    end)

    after_each(workload.stop_all)

    -- The mirror is gone, and everything changes meanwhile.
    local function lose_mirror()
        local mirror = cluster:mirror(0)
        mirror:kill()
        cluster:wait_row({ dbid = mirror.dbid, status = "d", mode = "n" }, SOON_S)
        round = round + 1
        workload.change(cluster:primary(0), round)
        return mirror
    end

    local function lose_primary()
        local old, mirror = cluster:primary(0), cluster:mirror(0)
        old:kill()
        cluster:wait_row({ dbid = mirror.dbid, role = "p", status = "u" }, SOON_S)
        cluster:wait_row({ dbid = old.dbid, role = "m", status = "d" }, SOON_S)
        round = round + 1
        workload.change(cluster:primary(0), round)
        return old
    end

    local function under_load(...)
        local writers = workload.start(cluster:primary(0))
        writers:progress(SOON_S)
        local out = cluster:must({ "recoverseg", "-a", ... })
        cluster:wait_healthy()
        writers:progress(SOON_S)
        writers:stop()
        return out
    end

    for _, way in ipairs({ { "--differential", "differential" }, { "-F", "full" } }) do
        local option, kind = unpack(way)
        it(("brings back a killed primary by a %s recovery"):format(kind), function()
            lose_primary()
            assert.matches("recovered by " .. kind, under_load(option))
            checkup.pair(cluster, 0)
        end)
    end

    it("brings back a killed mirror by copying what differs", function()
        lose_mirror()
        under_load("--differential")
        checkup.pair(cluster, 0)
        checkup.checksums(cluster, 0)
    end)

    it("only starts a mirror that only needs a start", function()
        local mirror = lose_mirror()
        local out = cluster:must({ "recoverseg", "-a" })
        assert.matches("type        start", out, 1, true)
        assert.matches("recovered by start in [%d.]+ m?s, 0 bytes written", out)
        assert.are.equal(mirror.dbid, cluster:mirror(0).dbid)
        checkup.pair(cluster, 0)
    end)

    local function flip(file, offset)
        local handle = assert(io.open(file, "r+b"))
        handle:seek("set", offset)
        local byte = handle:read(1):byte()
        handle:seek("set", offset)
        handle:write(string.char((byte + 1) % 256))
        handle:close()
        return string.char(byte)
    end

    it("is judged by a comparison that sees a single byte, and a file too many", function()
        local primary, mirror = cluster:primary(0), cluster:mirror(0)
        compare.settle(primary, mirror)
        local name = primary:value("pg_relation_filepath('elsewhere')")
        local file = mirror.datadir .. "/" .. name
        -- In the last tuple of a page that is full.
        local byte = flip(file, 8192 + 8188)
        place:write(mirror.datadir:match("[^/]+$") .. "/base/5/999999", "x")
        assert.are.same({ "base/5/999999: only on the mirror",
            name .. ": block 1" },
            { (compare.pair(primary, mirror)[1]),
              (compare.pair(primary, mirror)[2] or ""):match("^[^,]+") })
        os.remove(mirror.datadir .. "/base/5/999999")
        local handle = assert(io.open(file, "r+b"))
        handle:seek("set", 8192 + 8188)
        handle:write(byte)
        handle:close()
        assert.are.same({}, compare.pair(primary, mirror))
    end)
end)
