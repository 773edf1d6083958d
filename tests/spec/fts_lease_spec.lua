--- The state machine: leases of runbooks, watchers that die between two steps.
local fts = require("lib.fts")
local pair_of = require("tests.lib.pair")

local P, M = pair_of.PRIMARY, pair_of.MIRROR
local new = pair_of.new

describe("fts: leases", function()
    local function leased(ms)
        local pair = new():settle()
        pair.input.lease = { token = 7, holder = "me", intent = "stop", step = "x",
            expires = pair.now + ms }
        return pair
    end

    it("leave the content alone", function()
        local pair = leased(60000)
        for _ = 1, 20 do
            pair:after(1000):sees(P, "refused"):says(P, pair_of.stopped):sees(M, "ok")
        end
        assert.are.equal("leased", pair:state())
        assert.are.same({}, pair:story())
    end)

    it("that expired are finished or undone, once", function()
        local pair = leased(500)
        pair:after(1000):sees(P, "ok"):sees(P, "ok")
        assert.are.same({ "take_over" }, pair:story())
        assert.are.equal(7, pair:asked("take_over").lease.token)
        pair.input.lease = nil
        pair:result("lease", true)
        assert.are.equal("in_sync", pair:state())
    end)

    it("whose process is gone are taken over before they expire", function()
        local pair = leased(30000)
        pair:after(10):sees(P, "ok")
        assert.are.same({}, pair:story())
        pair.input.lease.gone = true
        pair:after(10):sees(P, "ok")
        assert.are.same({ "take_over" }, pair:story())
    end)

    it("are looked for before bad news is told or believed", function()
        for _, lease in ipairs({ false, { token = 7, holder = "me", intent = "handover", step = "x",
            expires = math.huge } }) do
            local pair = new():settle()
            pair.input.looked_at = pair.now
            pair:after(300):sees(P, "shutting_down"):sees(M, "ok"):says(P, {})
            pair:after(1):sees(P, "refused"):says(P, pair_of.stopped):sees(M, "ok")
            assert.is_nil(pair:asked("state"))
            assert.is_nil(pair:asked("decide"))
            assert.are.same({}, pair:story())
            pair.input.looked_at, pair.input.lease = pair.now, lease or nil
            pair:event({ kind = "tick" })
            assert.are.same(lease and {} or { "promote" }, pair:story())
            assert.are.equal(lease and "leased" or "primary_lost", pair:state())
        end
    end)

    it("are looked for when a role is not what it was: somebody may be changing it", function()
        local pair = new():settle()
        pair.input.looked_at = pair.now
        pair:after(300):sees(M, "ok", { in_recovery = false })
        assert.are.equal("in_sync", pair:state())
        pair.input.looked_at = pair.now + 1
        pair:after(1):result("look", true)
        assert.are.equal("mirror_lost", pair:state())
        pair:after(500):sees(M, "ok", { in_recovery = false })
        assert.are.equal("mirror_lost", pair:state())
    end)

    it("leave no bad news behind: what failed under them is looked at anew", function()
        local pair = leased(60000)
        pair:after(1000):sees(P, "refused"):says(P, pair_of.stopped)
        pair:after(100):sees(M, "refused"):says(M, pair_of.stopped)
        pair.input.lease, pair.log = nil, {}
        pair:after(1000):sees(P, "ok")
        assert.are.equal("in_sync", pair:state())
        assert.are.same({}, pair:story())
        pair:after(100):sees(M, "refused"):says(M, pair_of.stopped)
        assert.are.same({ "mirror_down" }, pair:story())
    end)

    it("are not needed to leave a stopped cluster alone", function()
        local pair = new():settle()
        pair.input.stopped = true
        pair:after(1000):sees(P, "refused"):says(P, pair_of.stopped):sees(M, "ok")
        assert.are.same({}, pair:story())
    end)
end)

describe("fts: a watcher that dies between any two steps", function()
    -- The next watcher knows nothing but the catalog and what it sees itself.
    local function successor(pair)
        pair.memory, pair.log = fts.memory(0), {}
        return pair:after(2000)
    end

    it("has its failover completed from every point on", function()
        local pair = new():settle()
        pair:after(100):sees(P, "reset"):sees(M, "ok")
        -- Before anything was recorded.
        successor(pair):sees(P, "refused"):after(5):sees(M, "ok"):says(P, pair_of.stopped)
        pair:says(M, {})
        assert.are.same({ "promote" }, pair:story())
        -- Recorded, not promoted, not marked.
        pair:recorded("promote")
        successor(pair):sees(M, "ok", { in_recovery = true }):sees(P, "refused")
        pair:says(P, { stopped = true, standby_signal = false })
        assert.are.same({ "promote 3", "mark 2" }, pair:story())
        -- Promoted, and nobody told the catalog its timeline, nor was the old one marked.
        successor(pair):sees(M, "ok", { in_recovery = false, peer = pair_of.none })
        pair:sees(P, "refused")
        pair:says(P, { stopped = true, standby_signal = false })
        assert.are.same({ "promote 3", "mark 2" }, pair:story())
        pair:result("primary", true, { value = { timeline = 2, switch_lsn = "0/17" } })
        assert.are.equal(2, pair:asked("promoted").timeline)
        pair:after(1000):sees(M, "ok", { in_recovery = false, peer = pair_of.none })
        assert.are.same({ "promote 3", "mark 2", "promoted" }, pair:story())
    end)

    it("has its promotion recorded when the lease is over that kept it from that", function()
        local pair = new():settle()
        pair:recorded("promote")
        successor(pair):sees(M, "ok", { in_recovery = true }):sees(P, "refused")
        pair:says(P, { stopped = true, standby_signal = false })
        pair.input.lease = { token = 7, holder = "me", intent = "recover", step = "x",
            expires = math.huge }
        pair:result("primary", true, { value = { timeline = 2, switch_lsn = "0/17" } })
        pair:sees(M, "ok", { in_recovery = false, peer = pair_of.none })
        assert.is_nil(pair:asked("promoted"))
        pair.input.lease = nil
        pair:after(100):sees(M, "ok", { in_recovery = false, peer = pair_of.none })
        assert.are.equal(2, pair:asked("promoted").timeline)
        pair.input.pair.promoted_epoch = pair.input.pair.role_epoch
        pair:result("promoted", true):after(1000)
        pair:sees(M, "ok", { in_recovery = false, peer = pair_of.none })
        assert.are.same({ "promote 3", "mark 2", "promoted" }, pair:story())
    end)

    it("does not hold the failures of before a recovery against it", function()
        local pair = new():settle()
        for _ = 1, 5 do
            pair:after(1000):sees(P, "ok", { peer = pair_of.none }):after(100):sees(P, "ok")
        end
        assert.are.equal(5, #pair.memory.flaps)
        pair:recorded("mirror_down")
        assert.are.equal(5, #pair.memory.flaps)
        pair:recorded("mirror_up")
        assert.are.same({}, pair.memory.flaps)
    end)

    it("does not take what it knew from before somebody else's change", function()
        local pair = new({ mode = "n", status = "d" })
        pair:sees(P, "ok", { peer = pair_of.none }):sees(M, "refused")
        pair:says(M, pair_of.stopped):says(P, {})
        pair.log = {}
        -- A recovery has brought the mirror back and armed it; the last probe of it is from before.
        pair:recorded("in_sync"):after(5):sees(P, "ok")
        assert.are.same({}, pair:story())
        assert.is_not_nil(pair:asked("ask", M))
        pair:says(M, {}):after(500):sees(M, "ok")
        assert.are.same({}, pair:story())
        assert.are.equal("in_sync", pair:state())
    end)

    it("has its release completed", function()
        local pair = new():settle()
        pair:after(100):sees(M, "reset"):says(M, pair_of.stopped):recorded("mirror_down")
        successor(pair):sees(P, "ok", { sync_names = "mr_0_3_9", peer = pair_of.none })
        assert.are.same({ "release 2" }, pair:story())
    end)
end)
