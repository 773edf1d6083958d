--- The state machine: lost and returning mirrors, what the catalog says and is not so.
--- tests/spec/fts_spec.lua and fts_lease_spec.lua have the rest.
local pair_of = require("tests.lib.pair")

local P, M = pair_of.PRIMARY, pair_of.MIRROR
local new = pair_of.new

describe("fts: the mirror is lost", function()
    it("records it at once by its host's word, then releases", function()
        for _, word in ipairs({ pair_of.stopped, pair_of.gone }) do
            local pair = new():settle()
            pair:after(100):sees(M, "reset")
            assert.is_not_nil(pair:asked("ask", M))
            pair:after(5):says(M, word)
            assert.are.same({ "mirror_down" }, pair:story())
            pair:recorded("mirror_down")
            assert.are.same({ "mirror_down", "release 2" }, pair:story())
            assert.are.equal(11, pair:asked("release").epoch)
            pair:after(2):result("primary", true)
            pair:after(1000):sees(P, "ok", { peer = pair_of.none }):sees(M, "refused")
            assert.are.same({ "mirror_down", "release 2" }, pair:story())
        end
    end)

    it("gives it its grace where nobody says that it is gone", function()
        local pair = new():settle()
        local began = pair.now
        repeat
            pair:after(1000):sees(M, "timeout", { took = 1000 }):sees(P, "ok",
                { peer = pair_of.none })
            pair:says(M, false)
        until pair:story()[1] or pair.now > began + 90000
        assert.are.same({ "mirror_down" }, pair:story())
        assert.is_true(pair.now - began >= 29000 and pair.now - began <= 32000, pair.now - began)
    end)

    it("asks its host again soon when it is back and its host was away", function()
        local pair = new({ mode = "n", status = "d" }):settle({ peer = pair_of.none })
        pair:after(1000):sees(M, "timeout", { took = 1000 }):says(M, false)
        pair.log = {}
        pair:after(500):sees(M, "ok"):sees(P, "ok")
        local began = pair.now
        while not pair:story()[1] and pair.now - began < 60000 do
            pair:after(500):sees(M, "ok"):sees(P, "ok")
            -- Its host is there from now on.
            if pair:asked("ask", M) then
                pair:says(M, {})
            end
        end
        assert.are.same({ "mirror_up" }, pair:story())
        assert.is_true(pair.now - began < 3000, pair.now - began)
    end)

    it("releases sooner when commits hang", function()
        local pair = new():settle()
        local began = pair.now
        repeat
            pair:after(1000):sees(P, "ok", { waiting = 3 }):sees(M, "timeout",
                { took = 1000 }):says(M, {})
        until pair:story()[1] or pair.now > began + 90000
        assert.are.same({ "mirror_down" }, pair:story())
        assert.is_true(pair.now - began <= 12000, pair.now - began)
    end)

    it("does not think that commits hang while the mirror flushes", function()
        local pair = new():settle()
        for i = 1, 40 do
            pair:after(1000):sees(M, "ok")
            pair:sees(P, "ok",
                { waiting = 3, peer = { state = "streaming", flush_lsn = 5000 + i } })
        end
        assert.are.same({}, pair:story())
    end)

    it("keeps it up when it is there and commits hang all the same, and arms anew", function()
        local pair = new():settle()
        for _ = 1, 12 do
            pair:after(1000):sees(M, "ok"):sees(P, "ok", { waiting = 1 })
        end
        assert.are.same({ "out_of_sync" }, pair:story())
        pair:recorded("out_of_sync")
        assert.are.same({ "out_of_sync", "release 2" }, pair:story())
    end)

    it("has its grace period anew once a runbook has started it", function()
        local pair = new():settle()
        pair.input.lease = { token = 1, expires = pair.now + 120000, holder = "spec",
            intent = "handover", step = "handed" }
        for _ = 1, 40 do
            pair:after(1000):sees(M, "refused"):sees(P, "ok", { peer = pair_of.none })
        end
        pair.input.lease = nil
        pair:after(100):event({ kind = "tick" })
        pair:says(M, {})
        assert.is_nil(pair:asked("decide"))
        pair:after(100):sees(M, "refused"):says(M, {})
        assert.are.same({}, pair:story())
        assert.is_true(pair:asked("decide").facts.mirror.bad_ms < 1000)
        for _ = 1, 31 do
            pair:after(1000):sees(M, "refused"):sees(P, "ok", { peer = pair_of.none })
            pair:says(M, {})
        end
        assert.are.same({ "mirror_down" }, pair:story())
    end)

    it("has its grace period anew once it was recovered", function()
        local pair = new({ mode = "n", status = "d" })
        for _ = 1, 60 do
            pair:after(1000):sees(M, "refused"):sees(P, "ok", { peer = pair_of.none })
        end
        pair:recorded("mirror_up")
        pair.log = {}
        pair:after(100):sees(P, "ok"):says(M, {})
        pair:after(100):sees(M, "refused"):says(M, {})
        assert.are.same({}, pair:story())
    end)

    it("is judged with a look at the catalog that is as new as the evidence", function()
        local pair = new():settle()
        pair.input.looked_at = pair.now
        pair:after(100):sees(M, "reset"):says(M, pair_of.stopped)
        pair:after(500):sees(M, "refused"):says(M, pair_of.stopped)
        assert.is_nil(pair:asked("decide"))
        pair.input.looked_at = pair.now
        pair:event({ kind = "tick" })
        assert.are.same({ "mirror_down" }, pair:story())
    end)

    it("has no primary released on sight: who armed it may just have recorded that", function()
        local pair = new({ mode = "n", status = "d" })
        pair:sees(P, "ok", { sync_names = "", peer = pair_of.none })
        pair.input.looked_at = pair.now
        pair:after(500):sees(P, "ok", { sync_names = "mr_0_3_9" })
        assert.are.same({}, pair:story())
        pair.input.looked_at = pair.now
        pair:event({ kind = "tick" })
        assert.are.same({ "release 2" }, pair:story())
    end)

    it("is not promoted when its primary, seen not to wait for it, dies before that is recorded",
        function()
        for _, seen in ipairs({ { sync_names = "" }, { sync_commit = "local" } }) do
            local pair = new():settle()
            pair:after(500):sees(P, "ok", seen)
            assert.are.same({ "out_of_sync" }, pair:story())
            pair:result("catalog", false)
            pair:after(20):sees(P, "reset"):says(P, pair_of.stopped):sees(M, "ok")
            pair:after(1500):sees(P, "refused"):sees(M, "ok")
            assert.are.same({ "out_of_sync", "out_of_sync" }, pair:story())
            pair:result("catalog", false)
            pair:after(1000):sees(P, "refused"):sees(M, "ok")
            assert.are.same({ "out_of_sync", "out_of_sync", "out_of_sync" }, pair:story())
            assert.matches("did not wait for this mirror", pair:asked("journal").text)
        end
    end)

    it("repeats a release until the primary is seen not to wait", function()
        local pair = new({ mode = "n", status = "d" })
        pair:sees(P, "ok", { sync_names = "mr_0_3_9", peer = pair_of.none })
        assert.are.same({ "release 2" }, pair:story())
        pair:result("primary", false)
        pair:after(250):sees(P, "ok", { sync_names = "mr_0_3_9", peer = pair_of.none })
        assert.are.same({ "release 2", "release 2" }, pair:story())
        assert.is_true(pair:asked("release").reserve)
    end)

    it("counts one whose replication fails again and again as down", function()
        local pair = new():settle()
        for _ = 1, 5 do
            pair:after(3000):sees(M, "ok"):sees(P, "ok", { peer = pair_of.none })
            pair:after(1000):sees(M, "ok"):sees(P, "ok")
        end
        pair:after(500):sees(P, "ok", { peer = pair_of.none })
        pair:after(2500):sees(M, "ok"):sees(P, "ok", { peer = pair_of.none })
        assert.are.same({ "mirror_down" }, pair:story())
        pair:recorded("mirror_down"):result("primary", true)
        pair:after(1000):sees(M, "ok"):sees(P, "ok"):says(M, {})
        assert.is_nil(pair:asked("mirror_up"))
        for _ = 1, 600 do
            pair:after(1000):sees(P, "ok"):sees(M, "ok")
        end
        assert.is_not_nil(pair:asked("mirror_up"))
    end)

    describe("to somebody who promoted it", function()
        local marked = { valid = true, epoch = 10, marked = true }

        it("is recorded, marked and fenced before its primary is released", function()
            local pair = new():settle()
            pair:after(100):sees(M, "ok", { in_recovery = false })
            pair:says(M, { standby_signal = false })
            assert.are.same({ "mirror_down" }, pair:story())
            pair:recorded("mirror_down"):says(M, { standby_signal = false })
            assert.are.same({ "mirror_down", "mark 3" }, pair:story())
            pair:after(5):result("old", true)
            pair:after(5):says(M, { standby_signal = false, epoch = marked })
            assert.are.same({ "mirror_down", "mark 3", "fence 3" }, pair:story())
            pair:after(20):result("old", true)
            assert.are.equal("ask", pair.actions[1].kind)
            pair:sees(M, "refused")
            pair:says(M, { standby_signal = false, epoch = marked, stopped = true })
            assert.are.equal("release 2", pair:story()[#pair:story()])
        end)

        it("is so from the moment its host sees the promotion, before its clients do", function()
            local pair = new():settle()
            local begun = { newest_timeline = pair.input.pair.timeline + 1 }
            pair:after(100):sees(P, "ok"):says(M, { control = begun })
            assert.are.same({ "mirror_down" }, pair:story())
            pair:recorded("mirror_down"):sees(M, "ok")
            pair:sees(P, "ok", { sync_names = "mr_0_3_9", peer = pair_of.none })
            assert.are.same({ "mirror_down" }, pair:story())
            pair:says(M, { control = begun })
            assert.are.same({ "mirror_down", "mark 3" }, pair:story())
            pair:after(5):result("old", true)
            pair:after(5):says(M, { control = begun, epoch = marked })
            assert.are.same({ "mirror_down", "mark 3", "fence 3" }, pair:story())
            pair:after(20):result("old", true):sees(M, "refused")
            pair:says(M, { control = begun, epoch = marked, stopped = true })
            assert.are.equal("release 2", pair:story()[#pair:story()])
        end)

        it("keeps its primary from being released while nobody can say that it is gone", function()
            for _, word in ipairs({ false, { standby_signal = false },
                { standby_signal = false, epoch = marked } }) do
                local pair = new():settle()
                pair:after(100):sees(M, "ok", { in_recovery = false }):says(M, {})
                pair:recorded("mirror_down"):after(1000):sees(M, "timeout", { took = 900 })
                for _ = 1, 100 do
                    pair:after(1000):sees(M, "timeout", { took = 900 }):sees(P, "ok",
                        { peer = pair_of.none, waiting = 1 }):says(M, word)
                end
                assert.is_nil(pair:asked("release"))
            end
        end)

        it("keeps it so for the next watcher, too", function()
            local pair = new({ mode = "n", status = "d" })
            pair:sees(M, "ok", { in_recovery = false })
            pair:sees(P, "ok", { sync_names = "mr_0_3_9", peer = pair_of.none })
            pair:says(M, { standby_signal = false })
            assert.are.same({ "mark 3" }, pair:story())
        end)

        it("is not what another server says at its address, once its host contradicts", function()
            local sound = { control = { newest_timeline = 1, state = "in archive recovery" } }
            local armed = { sync_names = "mr_0_3_9" }
            local pair = new():settle()
            for _ = 1, 10 do
                pair:after(1000):sees(P, "ok", armed):sees(M, "ok", { in_recovery = false })
                pair:says(M, sound)
                if pair.input.mirror.status == "u" then
                    pair:recorded("mirror_down")
                end
            end
            assert.are.same({ "mirror_down" }, pair:story())
            pair:after(1000):sees(M, "ok"):says(M, sound):sees(P, "ok", armed)
            assert.are.same({ "mirror_down", "release 2" }, pair:story())
            pair:result("primary", true):after(1000):sees(P, "ok", { sync_names = "" })
            assert.are.same({ "mirror_down", "release 2", "mirror_up" }, pair:story())
        end)

        it("is not that either once it is stopped, whoever answers in its place", function()
            local pair, control = new():settle(), { newest_timeline = 1,
                state = "shut down in recovery" }
            local armed = { sync_names = "mr_0_3_9", peer = pair_of.none, waiting = 1 }
            pair:after(1000):sees(P, "ok", armed):sees(M, "ok", { in_recovery = false })
            pair:says(M, pair_of.stopped):recorded("mirror_down")
            pair:after(1000):sees(P, "ok", armed):sees(M, "ok", { in_recovery = false })
            assert.is_nil(pair:asked("release"))
            local word = pair_of.word(pair_of.stopped)
            word.control = control
            pair:event({ kind = "word", dbid = M, begun = pair.now, word = word })
            assert.are.same({ "mirror_down", "release 2" }, pair:story())
        end)

        it("is that, where its host's word is from before or says that it left recovery", function()
            for _, what in ipairs({ { state = "in production" }, { signal = false },
                { newest = 2 } }) do
                local pair = new():settle()
                local function says(begun, state, signal, newest)
                    pair:event({ kind = "word", dbid = M, begun = begun, word = pair_of.word({
                        control = { newest_timeline = newest or 1,
                            state = state or "in archive recovery" },
                        standby_signal = signal ~= false }) })
                end
                pair:after(100):sees(M, "ok", { in_recovery = false }):recorded("mirror_down")
                says(pair.now - 10)
                assert.is_nil(pair:asked("mark"))
                says(pair.now, what.state, what.signal, what.newest)
                assert.is_not_nil(pair:asked("mark", M))
            end
        end)

        it("is marked once: what is in its place after that was recovered", function()
            local pair = new():settle()
            pair:after(100):sees(M, "ok", { in_recovery = false })
            pair:says(M, { standby_signal = false }):recorded("mirror_down")
            pair:says(M, { standby_signal = false }):after(5):result("old", true)
            pair:says(M, { standby_signal = false, epoch = marked }):result("old", true)
            pair:sees(M, "refused")
            pair:says(M, { standby_signal = false, epoch = marked, stopped = true })
            pair:result("old", true):result("primary", true)
            -- Who recovered it was killed before that could be recorded.
            local anew = { epoch = { valid = true, epoch = 20, marked = false, sysid = "7" } }
            pair.log = {}
            pair:after(60000):sees(P, "ok", { sync_names = "" }):sees(M, "ok"):says(M, anew)
            pair:after(1000):sees(P, "ok", { sync_names = "" })
            assert.are.same({ "mirror_up" }, pair:story())
        end)

        it("does not count once it has been recovered", function()
            local pair = new():settle()
            pair:after(100):sees(M, "ok", { in_recovery = false }):says(M, {})
            pair:recorded("mirror_down"):recorded("mirror_up"):recorded("in_sync")
            pair:after(1000):sees(P, "ok")
            pair:after(100):sees(M, "reset"):says(M, pair_of.stopped):recorded("mirror_down")
            assert.is_not_nil(pair:asked("release"))
        end)
    end)
end)

describe("fts: the mirror is back", function()
    it("is up when it streams, was never promoted and its epoch agrees; then it is armed",
        function()
        local pair = new({ mode = "n", status = "d", role_epoch = 3 })
        pair.input.pair.promoted_epoch = 3
        pair:sees(P, "ok", { peer = pair_of.none }):says(P, { standby_signal = false })
        pair:sees(M, "refused")
        pair:says(M, pair_of.stopped):after(1000):sees(M, "ok")
        assert.are.same({}, pair:story())
        pair:after(10):sees(P, "ok")
        assert.are.same({ "mirror_up" }, pair:story())
        pair:recorded("mirror_up"):says(M, {}):after(1000):sees(M, "ok"):sees(P, "ok")
        assert.are.same({ "mirror_up", "arm" }, pair:story())
        pair:recorded("in_sync")
        assert.are.equal("in_sync", pair:state())
    end)

    it("is not armed while it is far behind, and armed when it has caught up", function()
        local pair = new({ mode = "n" })
        pair:settle({ lsn = 5000 + 2 ^ 21 }):after(1000):sees(P, "ok", { lsn = 5000 + 2 ^ 21 })
        assert.are.same({}, pair:story())
        pair:after(1000):sees(P, "ok")
        assert.are.same({ "arm" }, pair:story())
    end)

    it("waits longer after each failure to arm", function()
        local pair = new({ mode = "n" }):sees(P, "ok"):sees(M, "ok"):says(P, {}):says(M, {})
        local waits = {}
        for _ = 1, 4 do
            pair:after(100):sees(M, "ok"):sees(P, "ok")
            pair:result("arm", false)
            table.insert(waits, pair.memory.retry.arm.at - pair.now)
            pair:after(waits[#waits])
        end
        assert.are.same({ 1000, 2000, 4000, 8000 }, waits)
    end)

    it("that was a primary is marked first, stopped then, and its pg_control moved aside",
        function()
        local pair = new({ mode = "n", status = "d", role_epoch = 8 })
        pair.input.pair.promoted_epoch = 8
        pair:sees(P, "ok", { peer = pair_of.none }):sees(M, "ok", { in_recovery = false })
        pair:says(M, { standby_signal = false })
        assert.are.same({ "mark 3" }, pair:story())
        pair:result("old", true)
        local epoch = { valid = true, epoch = 10, marked = true }
        pair:after(1):says(M, { epoch = epoch, standby_signal = false })
        assert.are.same({ "mark 3", "fence 3" }, pair:story())
        pair:after(30):result("old", true)
        assert.are.same({ "mark 3", "fence 3", "mark 3" }, pair:story())
        pair:after(30):result("old", true, { value = { marked = true, aside = true } }):after(30)
        pair:says(M, { epoch = epoch, stopped = true, control = { aside = true } })
        assert.are.same({ "mark 3", "fence 3", "mark 3" }, pair:story())
    end)

    it("that was a primary and streams by a standby.signal alone is marked, not taken", function()
        local pair = new({ mode = "n", status = "d", role_epoch = 8 })
        pair.input.pair.promoted_epoch = 8
        pair:sees(P, "ok"):sees(M, "ok"):says(M,
            { epoch = { valid = true, epoch = 5, marked = false } })
        assert.are.same({ "mark 3" }, pair:story())
    end)
end)

describe("fts: an instance that somebody else started", function()
    local private = { postmaster = { alive = true, listen = "", status = "standby" } }

    it("is told and restarted by its agent, whichever of the two it is", function()
        local pair = new({ mode = "n", status = "d" })
        pair:sees(P, "ok"):says(P, {}):sees(M, "refused"):says(M, private)
        assert.are.same({ "start 3" }, pair:story())
        assert.matches("somebody else", pair:asked("alert").text)
        pair = new():settle()
        pair:sees(P, "refused"):sees(M, "ok"):says(P, private)
        assert.are.same({ "start 2" }, pair:story())
    end)

    it("is left to start in peace, and not restarted when it was a primary", function()
        local pair = new({ mode = "n", status = "d" })
        pair:sees(P, "ok"):says(P, {}):sees(M, "refused")
        pair:says(M, { postmaster = { alive = true, listen = "", status = "starting" } })
        assert.are.same({}, pair:story())
        pair = new({ mode = "n", status = "d", role_epoch = 9 })
        pair.input.pair.promoted_epoch = 9
        pair:sees(P, "ok"):says(P, {}):sees(M, "refused"):says(M, private)
        assert.are.same({ "mark 3" }, pair:story())
    end)
end)

describe("fts: what the catalog says and is not so", function()
    it("a primary in recovery after a recorded change of roles is promoted by whoever comes next",
        function()
        local pair = new({ mode = "n", status = "d", role_epoch = 10 })
        pair:sees(P, "ok", { in_recovery = true })
        assert.are.same({ "promote 2" }, pair:story())
        assert.are.equal(10, pair:asked("order").epoch)
        -- Somebody has taken an epoch since; the order is still that of the change of roles.
        pair = new({ mode = "n", status = "d", role_epoch = 8 })
        pair:sees(P, "ok", { in_recovery = true })
        assert.are.equal(8, pair:asked("order").epoch)
        pair = new({ mode = "n", status = "d", role_epoch = 8 }):sees(P, "ok")
        assert.are.same({ "promote 2" }, pair:story())
        assert.are.equal(8, pair:asked("order").epoch)
        pair = new({ mode = "n", status = "d", role_epoch = 10 })
        pair:sees(P, "ok", { in_recovery = true })
        pair:result("primary", false):after(250):sees(P, "ok", { in_recovery = true })
        assert.are.equal(2, #pair:story())
    end)

    it("a primary in recovery with nothing recorded is an alarm and nothing else", function()
        local pair = new():settle()
        for _ = 1, 5 do
            pair:after(1000):sees(P, "ok", { in_recovery = true }):sees(M, "ok")
        end
        assert.are.same({}, pair:story())
        assert.matches("started it as a standby", pair:asked("alert").text)
    end)

    it("s, though commits do not wait", function()
        for _, case in ipairs({ { sync_names = "" }, { sync_names = "mr_0_3_8" },
            { sync_names = "ANY 1 (mr_0_3_9, other)" }, { sync_commit = "local" } }) do
            local pair = new():settle()
            pair:after(1000):sees(P, "ok", case)
            assert.are.same({ "out_of_sync" }, pair:story())
        end
    end)

    it("and its primary is an older copy of itself: told, the mirror is not let go", function()
        local pair = new():settle()
        local control = { sysid = "7", aside = false, timeline = 1, newest_timeline = 1,
                          state = "in archive recovery" }
        pair:says(M, { same_history = false, control = control,
            epoch = { valid = true, epoch = 12, marked = false, sysid = "7" },
            primary = { mode = "s", epoch = 11, ends_before = true } })
        for _ = 1, 50 do
            pair:after(1000):sees(P, "ok", { peer = pair_of.none }):sees(M, "ok")
        end
        assert.are.same({}, pair:story())
        assert.are.equal(1, pair:count("alert"))
        assert.matches("dbid 2 is an older copy of itself: its WAL ends before", pair:asked("alert")
            .text, 1, true)
        assert.matches("no release: rule 9: the primary is an older copy", pair:asked("refused")
            .text, 1, true)
        -- It holds back no failover.
        pair:sees(P, "refused"):sees(M, "ok"):says(P, pair_of.stopped):sees(M, "ok")
        assert.are.same({ "promote" }, pair:story())
    end)

    it("whatever the watcher itself lacks", function()
        local pair = new():settle()
        for _ = 1, 100 do
            pair:after(1000):sees(P, "shortage"):sees(M, "shortage")
        end
        assert.are.same({}, pair:story())
        assert.are.same({ "ok", "ok" },
            { pair.memory.inst[P].evidence, pair.memory.inst[M].evidence })
    end)

    it("is not judged by a look from before it was said", function()
        local pair = new({ mode = "n" }):settle()
        pair:recorded("in_sync"):sees(P, "ok", { sync_names = "", took = 500 })
        assert.are.same({}, pair:story())
        pair:after(1000):sees(P, "ok", { sync_names = "" })
        assert.are.same({ "out_of_sync" }, pair:story())
    end)

    it("n, though the primary waits for a mirror that is up: half an arming, released", function()
        local pair = new({ mode = "n" }):sees(P, "ok", { sync_names = "mr_nobody" })
        assert.are.equal("release 2", pair:story()[1])
    end)
end)
