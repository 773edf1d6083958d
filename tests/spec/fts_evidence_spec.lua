--- Evidence that is half a word: a primary that only its mirror hears, one that serves and lets
--- nobody new in.

local pair_of = require("tests.lib.pair")

local P, M = pair_of.PRIMARY, pair_of.MIRROR
local new = pair_of.new

describe("fts: evidence", function()
    -- Half a minute of silence, in which the mirror's receiver gets something every `every` ms.
    local function silent_and_heard(every, word)
        local pair, got = new():settle(), nil
        for i = 1, 30 do
            pair:after(1000):sees(P, "timeout", { took = 1000 })
            got = every and i * 1000 % every == 0 and pair.now or got
            pair:sees(M, "ok", { received_ms = got and pair.now - got or 1000 * i + 5000 })
            pair:says(P, word)
        end
        return pair
    end

    it("relies on sync alone where the host is silent too, but not while the mirror hears it",
        function()
        assert.are.same({ "promote" }, silent_and_heard(nil, false):story())
        -- As often as an idle primary is asked for a sign of life.
        assert.are.same({}, silent_and_heard(8000, false):story())
    end)

    it("relies on sync alone once the mirror hears its primary no more", function()
        local pair = silent_and_heard(8000, false)
        for _ = 1, 11 do
            pair:after(1000):sees(P, "timeout", { took = 1000 })
            pair:sees(M, "ok", { received_ms = pair_of.none }):says(P, false)
        end
        assert.are.same({ "promote" }, pair:story())
    end)

    it("does not take for a sign of life what the mirror got before the silence", function()
        local pair = new({ settings = { patience_ms = 3000 } }):settle()
        for i = 1, 6 do
            pair:after(1000):sees(P, "timeout", { took = 1000 })
            pair:sees(M, "ok", { received_ms = 1000 * i + 200 }):says(P, false)
        end
        assert.are.same({ "promote" }, pair:story())
    end)

    it("ends a hung primary whose sessions go on, though its mirror hears that", function()
        assert.are.same({ "fence 2" }, silent_and_heard(1000, {}):story())
    end)

    it("ends nobody who serves on its host and whose mirror hears it, and tells it once", function()
        local pair = silent_and_heard(8000, { serves = true })
        assert.are.same({}, pair:story())
        assert.are.equal(1, pair:count("alert"))
        assert.matches("look at the network", pair:asked("alert", P).text)
        -- It waits for a mirror that hears it no more.
        assert.are.same({ "fence 2" }, silent_and_heard(nil, { serves = true }):story())
    end)

    it("counts the silence towards new sessions from the last one that came about", function()
        local pair = new():settle()
        pair:sees(P, "ok", { fresh = true })
        local last = pair.now
        pair:after(2900):sees(P, "ok")
        while #pair:story() == 0 and pair.now - last < 30000 do
            pair:after(1750):sees(P, "ok"):sees(P, "no_new_session", { took = 2000 })
            pair:sees(M, "ok", { received_ms = 10 }):says(P, {})
            pair:after(250):event({ kind = "tick" })
        end
        assert.are.same({ "fence 2" }, pair:story())
        -- Four tries of two seconds each, the first of them three seconds after that session.
        assert.is_true(pair.now - last < 11200, pair.now - last)
        assert.is_true(pair.now - last >= 10000, pair.now - last)
    end)

    it("has nothing against a primary that refuses one more session, and tells it once", function()
        local pair = new():settle()
        for _ = 1, 10 do
            pair:after(1000):sees(P, "ok")
            pair:sees(P, "too_many", { fresh = true, message = "sorry, too many clients already" })
            assert.are.equal("in_sync", pair:state())
        end
        assert.are.equal(1, pair:count("sessions"))
        assert.matches("too many clients already", pair:asked("sessions", P).text)
        assert.matches("too many clients", pair:asked("alert", P).text)
        pair:after(1000):sees(P, "ok", { fresh = true })
        assert.matches("again", pair:asked("sessions", P).text)
        -- One that lets us in no more at all is alive, and not as it should be.
        for _ = 1, 30 do
            pair:after(1000):sees(P, "too_many", { fresh = true }):sees(M, "ok"):says(P, {})
        end
        assert.are.equal("primary_lost", pair:state())
        assert.are.same({}, pair:story())
    end)

    -- Both silent, and their hosts say that they live; then one of them is heard again.
    local function both_silent(seconds, back, sign)
        local pair = new():settle()
        for _ = 1, seconds do
            pair:after(1000):sees(P, "timeout", { took = 1000 })
            pair:sees(M, "timeout", { took = 1000 }):says(P, {}):says(M, {})
        end
        return pair:after(1000):sees(back, sign or "ok"):says(P, {}):says(M, {})
    end

    it("counts no silence of a primary while its mirror was silent, too", function()
        local pair = both_silent(60, M)
        for _ = 1, 8 do
            pair:after(1000):sees(P, "timeout", { took = 1000 }):sees(M, "ok"):says(P, {})
            assert.are.same({}, pair:story())
        end
        for _ = 1, 3 do
            pair:after(1000):sees(P, "timeout", { took = 1000 }):sees(M, "ok"):says(P, {})
        end
        assert.are.same({ "fence 2" }, pair:story())
    end)

    it("counts no silence of a mirror while its primary was silent, too", function()
        local pair = both_silent(60, P)
        for _ = 1, 28 do
            pair:after(1000):sees(M, "timeout", { took = 1000 }):sees(P, "ok"):says(M, {})
            assert.are.same({}, pair:story())
        end
        for _ = 1, 3 do
            pair:after(1000):sees(M, "timeout", { took = 1000 }):sees(P, "ok"):says(M, {})
        end
        assert.are.same({ "mirror_down" }, pair:story())
    end)

    it("counts no silence of both, whatever the first sign of life is, whenever it began",
        function()
        for _, sign in ipairs({ "too_many", "reset", "refused", "starting" }) do
            local pair = both_silent(60, M, sign):after(1000):sees(M, "ok")
            for _ = 1, 7 do
                pair:after(1000):sees(P, "timeout", { took = 1000 }):sees(M, "ok"):says(P, {})
                assert.are.same({}, pair:story(), sign)
            end
        end
        local pair = new():settle()
        for _ = 1, 60 do
            pair:after(1000):sees(P, "unresolved"):sees(M, "unresolved"):says(P, false)
        end
        pair:sees(M, "ok", { received_ms = 90000 }):says(P, false):says(M, {})
        assert.are.same({}, pair:story())
    end)

    it("counts the silence of a primary while its mirror answers, if it only refused", function()
        local pair = new():settle()
        for _ = 1, 11 do
            pair:after(1000):sees(P, "timeout", { took = 1000 }):sees(M, "refused"):says(P, {})
            pair:says(M, {})
        end
        pair:after(1000):sees(M, "timeout", { took = 1000 }):sees(M, "ok"):says(P, {}):says(M, {})
        assert.are.same({ "fence 2" }, pair:story())
    end)

    it("counts the silence of a primary while only some of what its mirror is asked is lost",
        function()
        local pair = new():settle()
        for i = 1, 20 do
            pair:after(1000):sees(P, "timeout", { took = 1000 }):says(P, {})
            pair:sees(M, "ok", { fresh = true })
            if i % 2 == 0 then
                pair:after(500):sees(M, "timeout", { took = 3000, fresh = true }):says(M, {})
            end
        end
        assert.are.same({ "fence 2" }, pair:story())
    end)

    it("never counts more of it than there was", function()
        local pair = new():settle()
        for i = 1, 60 do
            pair:after(1000):sees(P, i < 55 and "unresolved" or "timeout", { took = 1000 })
            pair:sees(M, "timeout", { took = 1000 }):says(P, {}):says(M, {})
        end
        for _ = 1, 11 do
            pair:after(1000):sees(P, "timeout", { took = 1000 }):sees(M, "ok"):says(P, {})
        end
        assert.are.same({ "fence 2" }, pair:story())
    end)

    it("takes the host's word that another server answers in a dead primary's place", function()
        for _, evidence in ipairs({ "authentication", "too_many", "wrong_system" }) do
            local pair = new():settle()
            pair:after(1000):sees(P, evidence):sees(M, "ok")
            pair:after(1000):says(P, pair_of.stopped)
            assert.are.same({ "promote" }, pair:story(), evidence)
        end
    end)

    it("takes it where that server is its mirror, to which its address leads now", function()
        local astray = { in_recovery = true, sync_names = "", peer = pair_of.none }
        local pair = new():settle()
        pair:after(1000):sees(P, "ok", astray):sees(M, "ok"):says(P, {})
        assert.are.equal("wrong_role", pair:state())
        pair:after(1000):sees(P, "ok", astray):sees(M, "ok")
        pair:says(P, pair_of.stopped):sees(P, "ok", astray)
        assert.are.same({ "promote" }, pair:story())
    end)

    it("holds no word against one that is a standby now, from before it was seen to be", function()
        local pair = new():settle()
        pair:after(1000):sees(P, "refused", {}):sees(M, "ok", { replay_paused = true })
        pair:says(P, pair_of.stopped)
        assert.are.equal("primary_lost", pair:state())
        pair:after(1000):sees(P, "ok", { in_recovery = true }):sees(M, "ok")
        assert.are.equal("wrong_role", pair:state())
        assert.are.same({}, pair:story())
    end)

    it("does not, once that server has answered after its host was asked", function()
        local pair = new():settle()
        pair:after(1000):sees(P, "starting")
        local asked = pair.now
        pair:after(100):sees(P, "starting"):sees(M, "ok")
        pair:event({ kind = "word", dbid = P, begun = asked, word = pair_of.word(pair_of.stopped) })
        assert.are.same({}, pair:story())
    end)

    it("fails nothing over for a name that nobody knows here, while its host says it lives",
        function()
        local pair = new():settle()
        for _ = 1, 30 do
            pair:after(1000):sees(P, "unresolved"):sees(M, "ok"):says(P, {})
        end
        assert.are.same({}, pair:story())
        assert.matches("name that nobody knows", pair:asked("alert", P).text)
    end)

    it("holds nothing against either that was so while nobody knew its name", function()
        local pair = new():settle()
        for _ = 1, 60 do
            pair:after(1000):sees(P, "unresolved"):sees(M, "ok"):says(P, {})
        end
        for _ = 1, 9 do
            pair:after(1000):sees(P, "timeout", { took = 1000 }):sees(M, "ok"):says(P, {})
            assert.are.same({}, pair:story())
        end
        pair:after(1000):sees(P, "timeout", { took = 1000 }):sees(M, "ok"):says(P, {})
        assert.are.same({ "fence 2" }, pair:story())
        pair = new():settle()
        for _ = 1, 60 do
            pair:after(1000):sees(M, "unresolved"):sees(P, "ok"):says(M, {})
        end
        pair:after(1000):sees(M, "timeout", { took = 900 }):sees(P, "ok"):says(M, {})
        assert.are.same({}, pair:story())
    end)

    it("takes nothing that a standby says at the primary's address for the primary's word",
        function()
        local pair = new():settle()
        for _ = 1, 7 do
            pair:after(1000):sees(M, "ok"):sees(P, "ok", { in_recovery = true, sync_names = "",
                peer = pair_of.none, waiting = pair_of.none }):says(P, {})
            assert.are.equal("wrong_role", pair:state())
            pair:after(1000):sees(M, "ok"):sees(P, "wrong_system"):says(P, {})
            assert.are.equal("primary_lost", pair:state())
            pair:after(1000):sees(M, "ok"):sees(P, "ok")
            assert.are.equal("in_sync", pair:state())
        end
        assert.are.same({}, pair:story())
    end)

    it("fails over for such a name once its host says that the server is stopped", function()
        local pair = new():settle()
        pair:after(1000):sees(P, "unresolved"):sees(M, "ok"):says(P, pair_of.stopped)
        assert.are.same({ "promote" }, pair:story())
    end)
end)
