local fts = require("lib.fts")
local pair_of = require("tests.lib.pair")

local P, M = pair_of.PRIMARY, pair_of.MIRROR
local policy = dofile("policies/failover.lua").decide

local function new(options)
    options = options or {}
    options.policy = options.policy or policy
    return pair_of.new(options)
end

describe("fts: the table of rows", function()
    it("names known states, actions and a comment in each row, and uses every action", function()
        local used = {}
        for i, row in ipairs(fts.rows) do
            for _, state in ipairs(row.from) do
                assert.is_string(fts.states[state], ("row %d: %s"):format(i, state))
            end
            assert.is_true(row.to == "same" or fts.states[row.to] ~= nil,
                ("row %d: %s"):format(i, row.to))
            assert.is_function(row.when)
            assert.is_true(#row.comment > 10)
            for _, name in ipairs(row.actions) do
                assert.is_function(fts.actions[name], name)
                used[name] = true
            end
        end
        for name in pairs(fts.actions) do
            assert.is_true(used[name], name .. " is in no row")
        end
    end)
end)

describe("fts: in peace", function()
    it("asks both hosts once, then nothing but now and then", function()
        local pair = new():sees(P, "ok"):sees(M, "ok")
        assert.is_not_nil(pair:asked("ask", P))
        assert.is_not_nil(pair:asked("ask", M))
        pair:settle()
        for _ = 1, 20 do
            pair:after(1000):sees(P, "ok"):sees(M, "ok")
        end
        assert.are.same({}, pair:story())
        assert.is_nil(pair:asked("ask"))
        pair:after(15000):sees(P, "ok")
        assert.is_true(pair:asked("ask", P).write_probe)
        assert.are.equal("in_sync", pair:state())
    end)

    it("points foreign servers at a primary once", function()
        local pair = new():sees(P, "ok")
        assert.is_not_nil(pair:asked("fdw", P))
        pair:result("fdw", true)
        pair.log = {}
        pair:after(1000):sees(P, "ok")
        assert.is_nil(pair:asked("fdw"))
    end)

    it("does nothing that changes anything without the lease", function()
        local pair = new({ leader = false }):settle()
        pair:after(5):sees(P, "reset"):sees(M, "ok"):says(P, pair_of.stopped)
        assert.are.same({}, pair:story())
    end)
end)

describe("fts: the primary is lost", function()
    it("asks its host at once and the mirror with it, and promotes a stopped one's mirror",
        function()
        local pair = new():settle()
        pair:after(100):sees(P, "reset")
        assert.are.equal("primary_lost", pair:state())
        assert.is_not_nil(pair:asked("ask", P))
        assert.is_not_nil(pair:asked("probe", M))
        pair:after(5):says(P, pair_of.stopped)
        assert.are.same({}, pair:story())
        pair:after(1):sees(M, "ok")
        assert.are.same({ "promote" }, pair:story())
        local record = pair:asked("promote")
        assert.are.equal(M, record.dbid)
        assert.are.equal(5000, record.decision.flush_lsn)
        assert.matches("stopped", record.reason)
    end)

    it("fences first what outlived its postmaster", function()
        local pair = new():settle()
        pair:after(100):sees(P, "reset"):sees(M, "ok"):says(P, pair_of.gone)
        assert.are.same({ "fence 2" }, pair:story())
        assert.is_true(pair:asked("fence").reserve)
        pair:after(20):result("primary", true)
        assert.are.same({ "fence 2", "promote" }, pair:story())
    end)

    it("tries a fence that failed again, later", function()
        local pair = new():settle()
        pair:after(100):sees(P, "reset"):sees(M, "ok"):says(P, pair_of.gone):result("primary",
            false)
        assert.are.same({ "fence 2" }, pair:story())
        assert.are.equal(pair.now + 200, pair.memory.wake)
        pair:after(200):event({ kind = "tick" })
        assert.are.same({ "fence 2", "fence 2" }, pair:story())
    end)

    it("promotes, marks the old one, and tells what was promoted", function()
        local pair = new():settle()
        pair:after(100):sees(P, "reset"):sees(M, "ok"):says(P, pair_of.stopped)
        pair:after(3):recorded("promote")
        assert.are.same({ "promote", "promote 3", "mark 2" }, pair:story())
        assert.are.equal("promoting", pair:state())
        assert.are.equal(11, pair:asked("order", M).epoch)
        pair:after(80):result("primary", true, { value = { timeline = 2, switch_lsn = 6000 } })
        local told = pair:asked("promoted")
        assert.are.equal(11, told.epoch)
        assert.are.equal(2, told.timeline)
        assert.is_not_nil(pair:asked("probe", M))
        pair:result("fdw", true, { dbid = P }):after(10):sees(M, "ok", { peer = pair_of.none })
        assert.are.equal(M, pair:asked("fdw").dbid)
    end)

    it("is not recorded twice, nor promoted by an old look", function()
        local pair = new():settle()
        pair:after(100):sees(P, "reset"):sees(M, "ok"):says(P, pair_of.stopped):sees(M, "ok")
        pair:after(3):recorded("promote")
        pair:result("primary", true, { value = {} }):result("old", true)
        pair.log = {}
        -- The answer to a probe that began before the promotion still says "in recovery".
        pair:sees(M, "ok", { in_recovery = true, took = 50 }):event({ kind = "tick" })
        assert.are.same({}, pair:story())
        pair:after(10):sees(M, "ok", { in_recovery = false, peer = pair_of.none })
        assert.are.equal("mirror_down", pair:state())
    end)

    it("does not touch one that restarts after a crash and advances", function()
        local pair = new():settle()
        pair:after(100):sees(P, "reset"):sees(M, "ok"):says(P, { postmaster = { alive = true } })
        for i = 1, 120 do
            pair:after(500):sees(P, "recovering"):sees(M, "ok")
            if pair:asked("ask", P) then
                pair:says(P, { recovery = { pid = 9, progress = i } })
            end
        end
        assert.are.same({}, pair:story())
        pair:after(100):sees(P, "ok"):sees(M, "ok")
        assert.are.equal("in_sync", pair:state())
    end)

    it("promotes when a crash recovery stands still", function()
        local pair = new():settle()
        for _ = 1, 100 do
            pair:after(500):sees(P, "recovering"):sees(M, "ok"):says(P,
                { recovery = { progress = 7 } })
        end
        assert.are.equal("fence 2", pair:story()[1])
    end)

    it("has patience with one that hangs: five tries over ten seconds, then fences and promotes",
        function()
        local pair = new():settle()
        local began = pair.now
        repeat
            pair:after(1000):sees(P, "timeout", { took = 1000 }):sees(M, "ok")
            if pair:asked("ask", P) then
                pair:says(P, {})
            end
            pair:event({ kind = "tick" })
        until pair:story()[1] or pair.now > began + 60000
        assert.are.same({ "fence 2" }, pair:story())
        assert.is_true(pair.now - began >= 10000 and pair.now - began <= 12000, pair.now - began)
    end)

    it("notices a postmaster that hangs while its sessions are served", function()
        local pair = new():settle()
        local began = pair.now
        repeat
            pair:after(1000):sees(P, "ok"):sees(P, "timeout", { fresh = true, took = 1000 }):sees(M,
                "ok")
            if pair:asked("ask", P) then
                pair:says(P, {})
            end
        until pair:story()[1] or pair.now > began + 60000
        assert.are.same({ "fence 2" }, pair:story())
        assert.is_true(pair.now - began <= 12000, pair.now - began)
    end)

    it("takes a single fresh session's silence back when the next one comes about", function()
        local pair = new():settle()
        pair:after(1000):sees(P, "ok"):sees(P, "timeout", { fresh = true })
        assert.are.equal("primary_lost", pair:state())
        pair:after(1000):sees(P, "ok")
        assert.are.equal("primary_lost", pair:state())
        pair:after(1000):sees(P, "ok", { fresh = true })
        assert.are.equal("in_sync", pair:state())
        assert.are.same({}, pair:story())
    end)

    it("relies on sync alone where the host is silent too, but not while the mirror hears it",
        function()
        for _, heard in ipairs({ false, true }) do
            local pair = new():settle()
            for i = 1, 30 do
                pair:after(1000):sees(P, "timeout", { took = 1000 })
                pair:sees(M, "ok", { lsn = heard and 5000 + i or 5000 }):says(P, false)
            end
            assert.are.same(heard and {} or { "promote" }, pair:story())
        end
    end)

    it("waits for a slow shutdown, not for ever", function()
        local pair = new():settle()
        for _ = 1, 50 do
            pair:after(1000):sees(P, "shutting_down"):sees(M, "ok"):says(P, {})
        end
        assert.are.same({}, pair:story())
        for _ = 1, 15 do
            pair:after(1000):sees(P, "shutting_down"):sees(M, "ok"):says(P, {})
        end
        assert.are.equal("fence 2", pair:story()[1])
    end)

    it("that answers and lets nobody in is alive", function()
        for _, evidence in ipairs({ "too_many", "sqlstate", "authentication" }) do
            local pair = new():settle()
            for _ = 1, 100 do
                pair:after(1000):sees(P, evidence):sees(M, "ok"):says(P, {})
            end
            assert.are.same({}, pair:story(), evidence)
            assert.is_not_nil(pair:asked("alert"))
        end
    end)

    it("is told once when a rule forbids what the policy wants", function()
        local pair = new():settle()
        pair:after(100):sees(P, "refused"):sees(M, "ok", { replay_paused = true }):says(P,
            pair_of.stopped)
        for _ = 1, 10 do
            pair:after(1000):sees(M, "ok", { replay_paused = true }):sees(P, "refused")
        end
        assert.are.same({}, pair:story())
        local count = 0
        for _, action in ipairs(pair.log) do
            count = count + (action.what == "refused" and 1 or 0)
        end
        assert.are.equal(1, count)
        assert.matches("rule 1: replay is paused", pair:asked("refused").text)
    end)

    it("asks again when a stopped server is seen to start", function()
        local pair = new({ mode = "n" }):settle()
        pair:after(100):sees(P, "reset"):says(P, pair_of.stopped)
        pair.log = {}
        pair:after(2000):sees(P, "starting")
        assert.is_not_nil(pair:asked("ask", P))
    end)
end)

describe("fts: a double fault", function()
    it("is recorded once, and nothing is promoted", function()
        for _, case in ipairs({ { mode = "n", status = "d" }, { mirror = false } }) do
            local pair = new(case)
            pair:sees(P, "ok")
            if pair.input.mirror then
                pair:sees(M, "refused"):says(M, pair_of.stopped)
            end
            pair:after(100):sees(P, "reset"):says(P, pair_of.stopped)
            for _ = 1, 30 do
                pair:after(1000):sees(P, "refused")
            end
            assert.are.equal("double_fault", pair:state())
            assert.are.same({}, pair:story())
            local count = 0
            for _, action in ipairs(pair.log) do
                count = count + (action.what == "double_fault" and 1 or 0)
            end
            assert.are.equal(1, count)
        end
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

describe("fts: the coordinator", function()
    it("that is lost is only reported", function()
        local pair = new({ content = -1 }):settle()
        pair:after(100):sees(P, "reset"):sees(M, "ok"):says(P, pair_of.stopped)
        pair:after(20000):sees(P, "refused"):sees(M, "ok"):says(P, pair_of.stopped)
        assert.are.same({}, pair:story())
        assert.matches("activatestandby", pair:asked("alert").text)
    end)

    it("is released from its standby with the record of a majority, and not without", function()
        for _, majority in ipairs({ true, false }) do
            local pair = new({ content = -1 }):settle()
            pair.input.majority = majority
            pair:after(100):sees(M, "reset"):says(M, pair_of.stopped)
            assert.are.same(majority and { "mirror_down" } or {}, pair:story())
        end
    end)
end)

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
        pair:after(1000):sees(M, "ok"):sees(P, "ok")
        assert.is_nil(pair:asked("mirror_up"))
        for _ = 1, 600 do
            pair:after(1000):sees(P, "ok"):sees(M, "ok")
        end
        assert.is_not_nil(pair:asked("mirror_up"))
    end)

    it("takes one that somebody promoted out at once, then marks and fences it", function()
        local pair = new():settle()
        pair:after(100):sees(M, "ok", { in_recovery = false })
        pair:says(M, { standby_signal = false })
        assert.are.same({ "mirror_down" }, pair:story())
        pair:recorded("mirror_down")
        assert.are.same({ "mirror_down", "mark 3", "release 2" }, pair:story())
    end)
end)

describe("fts: the mirror is back", function()
    it("is up when it streams, was never promoted and its epoch agrees; then it is armed",
        function()
        local pair = new({ mode = "n", status = "d", role_epoch = 3 })
        pair.input.pair.promoted_epoch = 3
        pair:sees(P, "ok", { peer = pair_of.none }):says(P, { standby_signal = false }):sees(M,
            "refused")
        pair:says(M, pair_of.stopped):after(1000):sees(M, "ok")
        assert.are.same({}, pair:story())
        pair:after(10):sees(P, "ok")
        assert.are.same({ "mirror_up" }, pair:story())
        pair:recorded("mirror_up"):after(1000):sees(M, "ok"):sees(P, "ok")
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

describe("fts: what the catalog says and is not so", function()
    it("a primary in recovery after a recorded change of roles is promoted by whoever comes next",
        function()
        local pair = new({ mode = "n", status = "d", role_epoch = 10 })
        pair:sees(P, "ok", { in_recovery = true })
        assert.are.same({ "promote 2" }, pair:story())
        assert.are.equal(10, pair:asked("order").epoch)
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
            { sync_commit = "local" } }) do
            local pair = new():settle()
            pair:after(1000):sees(P, "ok", case)
            assert.are.same({ "out_of_sync" }, pair:story())
        end
    end)

    it("n, though the primary waits for a mirror that is up: half an arming, released", function()
        local pair = new({ mode = "n" }):sees(P, "ok", { sync_names = "mr_nobody" })
        assert.are.equal("release 2", pair:story()[1])
    end)
end)

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
        successor(pair):sees(P, "refused"):after(5):sees(M, "ok"):says(P, pair_of.stopped):says(M,
            {})
        assert.are.same({ "promote" }, pair:story())
        -- Recorded, not promoted, not marked.
        pair:recorded("promote")
        successor(pair):sees(M, "ok", { in_recovery = true }):sees(P, "refused")
        pair:says(P, { stopped = true, standby_signal = false })
        assert.are.same({ "promote 3", "mark 2" }, pair:story())
        -- Promoted, and nobody told the catalog its timeline, nor was the old one marked.
        successor(pair):sees(M, "ok", { in_recovery = false, peer = pair_of.none }):sees(P,
            "refused")
        pair:says(P, { stopped = true, standby_signal = false })
        assert.are.same({ "mark 2" }, pair:story())
    end)

    it("has its release completed", function()
        local pair = new():settle()
        pair:after(100):sees(M, "reset"):says(M, pair_of.stopped):recorded("mirror_down")
        successor(pair):sees(P, "ok", { sync_names = "mr_0_3_9", peer = pair_of.none })
        assert.are.same({ "release 2" }, pair:story())
    end)
end)
