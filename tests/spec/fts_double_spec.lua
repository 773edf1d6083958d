--- The state machine when primary and mirror of a pair are both lost.
local pair_of = require("tests.lib.pair")

local P, M = pair_of.PRIMARY, pair_of.MIRROR
local new = pair_of.new

describe("fts: a double fault", function()
    it("is recorded once, and nothing is promoted", function()
        local pair = new({ mode = "n", status = "d" })
        pair:sees(P, "ok"):sees(M, "refused"):says(M, pair_of.stopped)
        pair:after(100):sees(P, "reset"):says(P, pair_of.stopped)
        for _ = 1, 30 do
            pair:after(1000):sees(P, "refused")
        end
        assert.are.equal("double_fault", pair:state())
        assert.are.same({}, pair:story())
        assert.are.equal(1, pair:count("double_fault"))
    end)

    it("is not what a primary without a mirror has: that is an alarm", function()
        local pair = new({ mode = "n", mirror = false }):sees(P, "ok")
        pair:after(100):sees(P, "reset"):says(P, pair_of.stopped)
        assert.are.equal("primary_lost", pair:state())
        assert.are.same({}, pair:story())
        assert.matches("has no mirror", pair:asked("alert").text)
    end)

    it("ends when the mirror that is in sync comes back: then it is promoted", function()
        local pair = new():settle()
        pair:after(10):sees(M, "reset"):says(M, pair_of.stopped)
        pair.log = {}
        pair:after(1):sees(P, "reset"):says(P, pair_of.stopped)
        pair:result("catalog", false)
        assert.are.equal("double_fault", pair:state())
        pair:after(5000):sees(M, "ok"):event({ kind = "tick" })
        assert.are.same({ "promote" }, pair:story())
    end)
end)

describe("fts: a double fault and a policy", function()
    local function lost(accept_loss, word)
        local pair = new({ mode = "n", policy = function(facts)
            return { action = facts.state == "double_fault" and "promote" or "nothing",
                     reason = "spec", accept_loss = accept_loss }
        end }):settle():result("arm", false)
        pair:after(100):sees(P, "reset"):sees(M, "ok"):says(P, word)
        -- The arming that failed is waited for, as before each change of the pair.
        return pair:after(1500):sees(M, "ok"):event({ kind = "tick" })
    end

    it("that accepts the loss in writing is done: recorded with it, then promoted", function()
        local pair = lost("ticket 17", pair_of.stopped)
        assert.are.same({ "promote" }, pair:story())
        assert.are.equal("ticket 17", pair:asked("promote").accept_loss)
        assert.are.equal("ticket 17", pair:asked("promote").decision.accept_loss)
        pair:after(3):recorded("promote")
        assert.are.same({ "promote", "promote 3" }, pair:story())
    end)

    it("that does not is refused, and that is told", function()
        local pair = lost(nil, pair_of.stopped)
        pair:after(2000):sees(M, "ok")
        assert.are.same({}, pair:story())
        assert.matches("rule 1: the pair is not in sync", pair:asked("refused").text)
    end)

    it("has what is left of the primary ended first", function()
        local pair = lost("ticket 17", pair_of.gone)
        assert.are.same({ "fence 2" }, pair:story())
        pair:after(20):result("primary", true):sees(M, "ok")
        assert.are.same({ "fence 2", "promote" }, pair:story())
    end)

    it("cannot have a mirror promoted whose primary is only out of reach", function()
        local pair = lost("ticket 17", false)
        pair:after(20000):sees(P, "timeout"):says(P, false):after(2000):sees(M, "ok")
        assert.are.same({}, pair:story())
        assert.matches("rule 3: nobody says that its primary is stopped",
            pair:asked("refused").text)
    end)

    it("is told what is left: how far each is, and what promoting it would lose", function()
        local pair = lost(nil, pair_of.word({ stopped = true, postmaster = { alive = false },
            control = { sysid = "7", aside = false, timeline = 3, checkpoint = "0/2000" } }))
        local left = pair:asked("double_fault").left
        assert.are.equal("0/1388", left.primary_lsn)
        local primary, mirror = unpack(left.survivors)
        assert.are.same({ 2, false, 3, "0/2000", true }, { primary.dbid, primary.running,
            primary.timeline, primary.lsn, primary.at_least })
        assert.are.same({ 3, true, 1, "0/1388", false, 0x2000 - 0x1388 }, { mirror.dbid,
            mirror.running, mirror.timeline, mirror.lsn, mirror.in_sync, mirror.lost_bytes })
    end)

    it("asks the hosts each second: one that somebody starts listens nowhere", function()
        local pair = new():settle()
        pair:after(10):sees(M, "reset"):says(M, pair_of.stopped)
        pair:result("catalog", false)
        pair:after(1):sees(P, "reset"):says(P, pair_of.stopped)
        pair.log = {}
        pair:after(1000):event({ kind = "tick" })
        assert.is_not_nil(pair:asked("ask", M))
        pair:says(M, { postmaster = { alive = true, listen = "", status = "ready" } })
        assert.is_not_nil(pair:asked("start", M))
        assert.matches("dbid 3 was started by somebody else", pair:asked("alert").text)
    end)
end)
