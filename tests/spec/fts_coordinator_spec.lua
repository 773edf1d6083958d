--- The state machine where the coordinator's own pair is concerned (SAFETY.md, rule 8).
local pair_of = require("tests.lib.pair")

local P, M = pair_of.PRIMARY, pair_of.MIRROR
local new = pair_of.new

describe("fts: without a majority", function()
    local function lost()
        local pair = new({ content = -1 }):settle()
        pair.input.majority = false
        return pair:after(100):sees(M, "reset"):says(M, pair_of.stopped)
    end

    it("the coordinator is not released, and that is told once", function()
        local pair = lost()
        for _ = 1, 5 do
            pair:after(1000):sees(P, "ok"):sees(M, "refused")
        end
        assert.are.same({}, pair:story())
        assert.matches("no release: rule 8: no majority", pair:asked("refused").text)
        assert.are.equal(1, pair:count("refused"))
    end)

    it("it is released as soon as there is one", function()
        local pair = lost()
        pair.input.majority = true
        pair:event({ kind = "tick" })
        assert.are.same({ "mirror_down" }, pair:story())
    end)

    it("it is told anew when its standby was back in between", function()
        local pair = lost()
        pair:after(1000):sees(M, "ok"):sees(P, "ok")
        assert.are.equal("in_sync", pair:state())
        pair:after(1000):sees(M, "reset"):says(M, pair_of.stopped)
        assert.are.equal(2, pair:count("refused"))
    end)
end)

describe("fts: hosts that know of a release that did not come about", function()
    local function told(more)
        local pair = new({ content = -1 }):settle()
        pair.input.hosts_ahead = true
        pair:after(1000):sees(P, "ok", more)
        return pair:asked("tell_hosts")
    end

    it("are told by an epoch of its own, once the pair is seen in sync", function()
        assert.are.equal(10, told().seen)
        assert.is_nil(told({ sync_names = "" }))
        assert.is_nil(told({ sync_commit = "local" }))
    end)

    it("are not while somebody works on the pair, nor by who does not lead", function()
        for key, value in pairs({ leader = false,
            lease = { expires = math.huge, holder = "x", intent = "start", step = "x" } }) do
            local pair = new({ content = -1 }):settle()
            pair.input.hosts_ahead = true
            pair.input[key] = value
            pair:after(1000):sees(P, "ok")
            assert.is_nil(pair:asked("tell_hosts"))
        end
    end)
end)

describe("fts: an unconfirmed pair", function()
    local function unconfirmed(options)
        local pair = new(options):settle()
        pair.input.unconfirmed = true
        return pair
    end

    it("has its hosts asked, and nothing else done about it", function()
        local pair = unconfirmed()
        pair:after(100):sees(P, "reset"):says(P, pair_of.stopped):sees(M, "ok")
        assert.are.equal("unconfirmed", pair:state())
        assert.is_not_nil(pair:asked("confirm"))
        pair:result("catalog", false)
        for _ = 1, 30 do
            pair:after(1000):sees(P, "refused"):sees(M, "ok")
        end
        assert.are.same({}, pair:story())
        assert.is_nil(pair:asked("decide"))
    end)

    -- By a catalog that lacks the failover the new primary looks like an old one.
    it("does not have the one marked that was promoted without the catalog's knowledge", function()
        local pair = unconfirmed({ mode = "n", status = "d" })
        pair:says(M, { standby_signal = false }):sees(M, "ok", { in_recovery = false })
        assert.are.same({}, pair:story())
    end)

    it("is as any other one once it is confirmed", function()
        local pair = unconfirmed()
        pair:after(100):sees(P, "reset"):says(P, pair_of.stopped):sees(M, "ok")
        pair.input.unconfirmed = false
        pair:result("catalog", true)
        pair:after(1):says(P, pair_of.stopped)
        assert.are.same({ "promote" }, pair:story())
    end)

    it("is left to a runbook that holds its lease", function()
        local pair = unconfirmed()
        pair.input.lease = { expires = math.huge, holder = "x", intent = "stop", step = "x" }
        pair:after(1000):sees(P, "ok")
        assert.are.equal("leased", pair:state())
        assert.is_nil(pair:asked("confirm"))
    end)
end)
