--- The state machine while failover is paused: nothing is promoted or released, that is said once,
--- and what has to be done is done when the pause ends.
local pair_of = require("tests.lib.pair")

local PRIMARY, MIRROR = pair_of.PRIMARY, pair_of.MIRROR
local PAUSED = "until 12:00 by joe@sdw1: new switches"

describe("the state machine, paused,", function()
    local function settled(options)
        local pair = pair_of.new(options)
        pair.input.paused = PAUSED
        return pair:settle()
    end

    local function lose_primary(pair)
        pair:sees(PRIMARY, "reset"):says(PRIMARY, pair_of.stopped):sees(MIRROR, "ok")
    end

    local function told(pair)
        local count = 0
        for _, action in ipairs(pair.log) do
            if action.what == "refused" then
                assert.matches(PAUSED, action.text, 1, true)
                count = count + 1
            end
        end
        return count
    end

    it("promotes nobody, and says so once", function()
        local pair = settled()
        lose_primary(pair)
        for _ = 1, 5 do
            pair:after(1000):sees(MIRROR, "ok"):event({ kind = "tick" })
        end
        assert.are.same({}, pair:story())
        assert.are.equal(1, told(pair))
    end)

    it("does not end a server that hangs", function()
        local pair = settled()
        for _ = 1, 20 do
            pair:after(1000):sees(PRIMARY, "timeout"):says(PRIMARY, {}):sees(MIRROR, "ok")
        end
        assert.are.same({}, pair:story())
        assert.are.equal(1, told(pair))
    end)

    it("promotes as soon as the pause has ended, without new evidence", function()
        local pair = settled()
        lose_primary(pair)
        assert.are.same({}, pair:story())
        pair.input.paused = nil
        pair:event({ kind = "tick" })
        assert.are.same({ "promote" }, pair:story())
    end)

    it("wants to be woken when the pause ends", function()
        local pair = settled()
        pair.input.paused_until = pair.now + 37
        pair:event({ kind = "tick" })
        assert.are.equal(pair.input.paused_until, pair.memory.wake)
    end)

    it("carries out a promotion that is recorded", function()
        local pair = settled()
        pair.input.paused = nil
        lose_primary(pair)
        assert.are.same({ "promote" }, pair:story())
        pair.input.paused = PAUSED
        pair:recorded("promote")
        assert.is_not_nil(pair:asked("promote", MIRROR))
    end)

    it("releases nobody from a lost mirror, says so once, and releases afterwards", function()
        local pair = settled()
        pair:sees(MIRROR, "reset"):says(MIRROR, pair_of.stopped)
        for _ = 1, 5 do
            pair:after(1000):sees(PRIMARY, "ok"):event({ kind = "tick" })
        end
        assert.are.same({}, pair:story())
        assert.are.equal(1, told(pair))
        pair.input.paused = nil
        pair:event({ kind = "tick" })
        assert.are.same({ "mirror_down" }, pair:story())
    end)

    it("carries out a release that is recorded", function()
        local pair = settled()
        pair:sees(MIRROR, "reset"):says(MIRROR, pair_of.stopped)
        pair:recorded("mirror_down")
        pair:after(1000):sees(PRIMARY, "ok", { sync_names = '"mr_0_3_9"' })
        assert.are.same({ "release 2" }, pair:story())
    end)

    it("records that commits do not wait for the mirror", function()
        local pair = settled()
        pair:after(1000):sees(PRIMARY, "ok", { sync_names = "" })
        assert.are.same({ "out_of_sync" }, pair:story())
    end)

    it("tells of a second pause", function()
        local pair = settled()
        lose_primary(pair)
        pair:after(2000):sees(MIRROR, "ok"):event({ kind = "tick" })
        assert.are.equal(1, told(pair))
        pair.log, pair.input.paused = {}, "until 13:00 by ann@sdw2: not yet"
        pair:after(1000):sees(MIRROR, "ok")
        assert.matches("ann@sdw2", pair:asked("refused").text)
    end)
end)
