--- Faults of hosts and links, drawn by the dice, one at a time and two at once, under writers on
--- every instance: nothing acknowledged is lost, no two of a pair acknowledge, everything comes
--- back. In a campaign only: MOONRISE_FAULTS=N faults, and MOONRISE_SEED=N draws the same again.

local campaign = require("tests.lib.campaign")
local cluster_of = require("tests.lib.cluster")
local dice_of = require("tests.lib.dice")
local hosts = require("tests.lib.hosts")
local hosts_faults = require("tests.lib.hosts_faults")
local pinned = require("tests.lib.pinned")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local given = tonumber(os.getenv("MOONRISE_FAULTS"))
local FAULTS = given or os.getenv("MOONRISE_CAMPAIGN") and 100
local SOON_S, MEND_S = wait.SOON_S, 240
local TWO_AT_ONCE = 0.4
-- How long things are left as they are: sometimes longer than anybody's patience.
local LEFT_S = 15
local NAMES = { "cdw", "scdw", "sdw1", "sdw2" }
local PLACES = { coordinator = "cdw", standby = "scdw", primary0 = "sdw1", mirror0 = "sdw2",
    primary1 = "sdw2", mirror1 = "sdw1" }

describe("a campaign of hosts", function()
    local place, lab, cluster, writers, world, why_not
    local dice = dice_of.new()

    setup(function()
        place = place_of.new()
        why_not = not FAULTS and "only in a campaign" or nil
        if FAULTS then
            lab, why_not = hosts.open(place, { "clients", unpack(NAMES) }, { memory = "2g" })
        end
        if not lab then
            return
        end
        cluster = cluster_of.new(place, { lab = lab, hosts = PLACES, segments = 2, standby = true,
            hba = { "host pinned pinned 10.9.0.0/16 scram-sha-256" },
            settings = { wal_receiver_timeout = "4s", wal_sender_timeout = "4s",
                autovacuum = "off" },
            watch = { interval_ms = 500, timeout_ms = 800, patience_ms = 4000, heard_ms = 4000,
                grace_ms = 6000 } })
        cluster:init()
        cluster:watched()
        world = { lab = lab, cluster = cluster, dice = dice, names = NAMES, coordinator = "cdw" }
        writers = pinned.open(cluster, lab.clients)
    end)

    teardown(place_of.close_all)

    -- All runs and is in sync again; the watcher, when it has gone with its host, is started anew.
    local function mended()
        campaign.recover(cluster, MEND_S, function()
            if cluster.watcher:code() then
                cluster:watch()
            end
        end)
        writers:progress(20, SOON_S)
    end

    local function round(n)
        local list, undos = {}, {}
        for i = 1, dice:number(1) < TWO_AT_ONCE and 2 or 1 do
            list[i], undos[i] = campaign.draw(hosts_faults, world)
        end
        campaign.endure(dice, { n = n, list = list, undos = undos, left_s = LEFT_S,
            mended = mended })
    end

    it("loses nothing and comes back each time", function()
        if not lab then
            return pending(why_not)
        end
        print(("# MOONRISE_SEED=%d, %d faults"):format(dice.seed, FAULTS))
        for n = 1, FAULTS do
            round(n)
        end
        pinned.sound(cluster, writers:prove())
    end)
end)
