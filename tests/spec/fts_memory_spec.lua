--- What the state machine keeps of the past, and what it must not keep.
local pair_of = require("tests.lib.pair")

local PRIMARY, MIRROR = pair_of.PRIMARY, pair_of.MIRROR

describe("fts remembers", function()
    -- Commits hang since the mirror is gone, and somebody empties the primary's setting.
    local function helped(paused)
        local pair = pair_of.new()
        pair.input.paused = paused
        pair:settle():sees(MIRROR, "refused"):says(MIRROR, false)
        return pair:after(1000):sees(PRIMARY, "ok", { sync_names = "" })
    end

    it("that a primary did not wait, though its mirror was lost already", function()
        local pair = helped("until 12:00 by joe@sdw1: a new switch")
        assert.are.equal("mirror_lost", pair:state())
        assert.are.same({ "out_of_sync" }, pair:story())
    end)

    it("it when the primary has died before that could be recorded", function()
        local pair = helped()
        pair:result("catalog", false)
        pair:sees(PRIMARY, "reset"):says(PRIMARY, pair_of.stopped)
        -- Somebody's order took an epoch, so that what was seen is older than the pair.
        pair.input.pair = { epoch = 11, role_epoch = 0, promoted_epoch = 0,
            armed_name = "mr_0_3_9", armed_timeline = 1 }
        pair.log = {}
        pair:after(20000):says(PRIMARY, pair_of.stopped):says(MIRROR, {}):sees(MIRROR, "ok")
        assert.are.same({ "out_of_sync" }, pair:story())
        pair:recorded("out_of_sync")
        pair:after(1000):says(PRIMARY, pair_of.stopped):sees(MIRROR, "ok")
        assert.are.equal("double_fault", pair:state())
        assert.is_nil(pair:asked("promote"))
    end)

    it("nothing of a name that is newer than the last look at the catalog", function()
        local pair = pair_of.new():settle()
        pair.input.looked_at = pair.now
        pair:after(500):sees(PRIMARY, "ok", { sync_names = '"mr_0_3_12"' })
        assert.are.same({}, pair:story())
        pair.input.pair = { epoch = 12, role_epoch = 0, promoted_epoch = 0,
            armed_name = "mr_0_3_12", armed_timeline = 1 }
        pair.input.looked_at = pair:after(10).now
        pair:event({ kind = "tick" })
        assert.are.same({}, pair:story())
        pair:after(500):sees(PRIMARY, "ok", { sync_names = "" })
        pair.input.looked_at = pair.now + 1
        pair:after(1):event({ kind = "tick" })
        assert.are.same({ "out_of_sync" }, pair:story())
    end)

    it("it no longer once the pair is armed anew", function()
        local pair = helped()
        pair:recorded("out_of_sync")
        pair:result("primary", true)
        pair.input.pair.armed_name = "mr_0_3_12"
        pair:recorded("in_sync")
        pair:after(1000):sees(MIRROR, "ok"):sees(PRIMARY, "ok", { sync_names = '"mr_0_3_12"' })
        pair.log = {}
        pair:sees(PRIMARY, "reset"):says(PRIMARY, pair_of.stopped):sees(MIRROR, "ok")
        assert.are.same({ "promote" }, pair:story())
    end)
end)

describe("fts forgets", function()
    it("what was decided for a fault that is over", function()
        local pair = pair_of.new()
        pair.input.paused = "until 12:00 by joe@sdw1: a new switch"
        pair:settle()
        local function silent(times)
            for _ = 1, times do
                pair:after(2000):sees(PRIMARY, "timeout"):says(PRIMARY, {}):sees(MIRROR, "ok")
            end
        end
        silent(8)
        assert.are.equal("promote", pair.memory.answer.action)
        pair:sees(PRIMARY, "ok", { fresh = true })
        pair.input.paused = nil
        pair:after(600000):sees(PRIMARY, "ok"):sees(MIRROR, "ok")
        silent(1)
        assert.are.same({}, pair:story())
        silent(8)
        assert.are.same({ "fence 2" }, pair:story())
    end)
end)
