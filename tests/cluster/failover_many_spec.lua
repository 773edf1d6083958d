--- Many failovers in a row, back and forth, under writers that keep a ledger. MOONRISE_CAMPAIGN=1
--- makes it fifty.

local checkup = require("tests.lib.checkup")
local cluster_of = require("tests.lib.cluster")
local compare = require("tests.lib.compare")
local dice_of = require("tests.lib.dice")
local place_of = require("tests.lib.place")
local shop = require("tests.lib.shop")
local wait = require("tests.lib.wait")

local SOON_S = wait.SOON_S
local SESSIONS = 3
local ROUNDS = os.getenv("MOONRISE_CAMPAIGN") and 50 or 6
-- Between the pair being in sync and the next kill.
local PAUSE_S = 0.5

describe("failovers in a row", function()
    local place, cluster, watch, writers
    local dice = dice_of.new()

    setup(function()
        place = place_of.new()
        cluster = cluster_of.new(place, { segments = 2, hba = shop.hba,
            settings = { autovacuum = "off" } })
        cluster:init()
        watch = cluster:watch()
        watch:says("watching", SOON_S)
        writers = shop.open(cluster, SESSIONS)
        for _, dbname in ipairs({ "postgres", "shop" }) do
            cluster:primary(0):sql("create extension amcheck", { dbname = dbname })
        end
        cluster:wait_healthy()
    end)

    teardown(place_of.close_all)

    local function timeline(server)
        return tonumber(server:value("(select timeline_id from pg_control_checkpoint())"))
    end

    local function round()
        local old, mirror = cluster:primary(0), cluster:mirror(0)
        old:kill()
        cluster:wait_row({ dbid = mirror.dbid, role = "p" }, SOON_S)
        writers:progress(30, SOON_S)
        cluster:recover()
        assert.are.equal(old.dbid, cluster:mirror(0).dbid)
        assert.are.equal(mirror.dbid, cluster:primary(0).dbid)
    end

    it("lose nothing that was acknowledged, and keep nothing that was refused", function()
        for n = 1, ROUNDS do
            local moment = wait.now() + dice:number(PAUSE_S)
            dice:told("round " .. n, function()
                writers:progress(30, SOON_S)
                wait.eventually("the moment", PAUSE_S + 1, function()
                    return wait.now() > moment
                end)
                round()
            end)
        end
        writers:stop()
        -- Pages first: a query on the data would touch them.
        assert.are.same({}, compare.pair(cluster:primary(0), cluster:mirror(0)))
        checkup.amcheck(cluster:mirror(0), "shop")
        local proof = writers:prove()
        assert.is_true(proof.acknowledged > 60 * ROUNDS)
        shop.sound(proof)
    end)

    it("make as many timelines, and leave the other pair alone", function()
        assert.are.equal(ROUNDS + 1, timeline(cluster:primary(0)))
        assert.are.equal(ROUNDS, #cluster:journal({ kind = "failover", content = 0 }))
        assert.are.equal(tostring(ROUNDS), cluster:catalog(
            "select count(*) as n from promotion where content = 0")[1].n)
        assert.are.equal(1, timeline(cluster:primary(1)))
        assert.are.equal(0, #cluster:journal({ kind = "decision", content = 1 }))
    end)

    it("leave a pair that is sound: pages, slots, indexes, state -e, checksums", function()
        checkup.pair(cluster, 0)
        checkup.checksums(cluster, 0)
        checkup.slots(cluster:primary(1), cluster:mirror(1))
    end)
end)
