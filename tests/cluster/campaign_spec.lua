--- Faults of all kinds, one after the other and two at once, drawn by the dice, under writers on
--- every instance: nothing acknowledged is lost, no two of a pair acknowledge, everything comes
--- back by recoverseg, and the watcher does not grow. MOONRISE_CAMPAIGN=1 makes it three hundred,
--- MOONRISE_FAULTS=N as many, and MOONRISE_SEED=N draws the same ones again.

local lfs = require("lfs")

local campaign = require("tests.lib.campaign")
local cluster_of = require("tests.lib.cluster")
local dice_of = require("tests.lib.dice")
local faults = require("tests.lib.faults")
local pinned = require("tests.lib.pinned")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local FAULTS = tonumber(os.getenv("MOONRISE_FAULTS"))
    or os.getenv("MOONRISE_CAMPAIGN") and 300 or 6
local SEGMENTS = 2
local SOON_S, MEND_S = wait.SOON_S, 180
-- How long things are left as they are before they are taken back and mended, at most: sometimes
-- longer than anybody's patience.
local LEFT_S, LONG_LEFT_S = 4, 25
local LONG_LEFT = os.getenv("MOONRISE_CAMPAIGN") and 0.25 or 0.1
local TWO_AT_ONCE = 0.4
-- The second of two comes at once, or when the watcher has done something about the first.
local REACTION_S = 3
-- What a watcher may have more in the end than when it had seen some faults.
local WARM, MORE_FILES, MORE_KB = 4, 12, 16384

describe("a campaign of faults", function()
    local place, cluster, writers, world
    local dice = dice_of.new()
    local baseline

    local function size_of(pid)
        local status = place_of.read(("/proc/%d/status"):format(pid)) or ""
        local files = 0
        for _ in lfs.dir(("/proc/%d/fd"):format(pid)) do
            files = files + 1
        end
        return { kb = tonumber(status:match("VmRSS:%s+(%d+)")), files = files }
    end

    setup(function()
        place = place_of.new()
        cluster = cluster_of.new(place, { segments = SEGMENTS, standby = true, hba = pinned.hba,
            settings = { autovacuum = "off", max_connections = "30" } })
        cluster:init()
        world = faults.world(cluster, dice)
        writers = pinned.open(cluster)
        cluster:wait_healthy()
    end)

    teardown(place_of.close_all)

    local function some_content()
        return math.floor(dice:number(SEGMENTS))
    end

    local function mended()
        world:mend()
        campaign.recover(cluster, MEND_S)
        writers:progress(20, SOON_S)
    end

    -- Until the watcher has told something more, whatever it is.
    local function reaction()
        pcall(cluster.wait_journal, cluster, { since = cluster:journal_end() }, REACTION_S)
    end

    local function round(n)
        local list, undos = {}, {}
        for i = 1, dice:number(1) < TWO_AT_ONCE and 2 or 1 do
            if i == 2 and dice:number(1) < 0.5 then
                reaction()
            end
            list[i], undos[i] = campaign.draw(faults, world, some_content())
        end
        local left_s = dice:number(1) < LONG_LEFT and LONG_LEFT_S or LEFT_S
        campaign.endure(dice, { n = n, list = list, undos = undos, left_s = left_s,
            mended = mended })
    end

    it("loses nothing and comes back each time", function()
        print(("# MOONRISE_SEED=%d, %d faults"):format(dice.seed, FAULTS))
        for n = 1, FAULTS do
            round(n)
            if n == math.min(WARM, FAULTS - 1) then
                baseline = size_of(world.steady.pid)
            end
        end
        pinned.sound(cluster, writers:prove())
    end)

    it("leaves a watcher that has not grown", function()
        local now = size_of(world.steady.pid)
        assert.is_true(now.files <= baseline.files + MORE_FILES,
            ("%d files, %d before"):format(now.files, baseline.files))
        assert.is_true(now.kb <= baseline.kb + MORE_KB,
            ("%d kB, %d before"):format(now.kb, baseline.kb))
    end)
end)
