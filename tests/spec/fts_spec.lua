local fts = require("lib.fts")
local pair_of = require("tests.lib.pair")

local P, M = pair_of.PRIMARY, pair_of.MIRROR
local new = pair_of.new

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

local FULL = "a file in /d2: write at 0: No space left on device"

describe("fts: a disk that is full", function()
    local function told(pair)
        local texts = {}
        for _, action in ipairs(pair.log) do
            if action.what == "disk" or action.what == "alert" then
                table.insert(texts, action.what .. ": " .. action.text)
            end
        end
        return texts
    end

    it("is looked for every few seconds on both sides, one question at a time", function()
        local pair = new():settle()
        assert.is_nil(pair:sees(P, "ok"):asked("disk"))
        pair:writes(P):writes(M)
        pair:after(4000):sees(P, "ok"):sees(M, "ok")
        assert.is_nil(pair:asked("disk"))
        pair:after(1500):sees(P, "ok"):sees(M, "ok")
        assert.is_not_nil(pair:asked("disk", P))
        assert.is_not_nil(pair:asked("disk", M))
        pair.log = {}
        pair:after(9000):sees(P, "ok"):sees(M, "ok")
        assert.is_nil(pair:asked("disk"))
        pair:writes(P, FULL):writes(M):after(6000):sees(P, "reset"):says(P, pair_of.stopped)
        pair.log = {}
        assert.is_nil(pair:after(9000):sees(P, "refused"):asked("disk", P))
    end)

    it("is told once as it begins and once as it ends, and alerts; nothing is changed", function()
        local pair = new():settle():writes(P):writes(M)
        pair:writes(P, FULL)
        for _ = 1, 5 do
            pair:after(5500):sees(P, "ok"):sees(M, "ok"):writes(P, FULL):writes(M)
        end
        local decided = pair:asked("decide").facts
        assert.are.equal(FULL, decided.primary.disk_error)
        assert.is_nil(decided.mirror.disk_error)
        assert.are.same({ "disk: dbid 2's data directory cannot be written: " .. FULL,
            "alert: the primary's data directory cannot be written: " .. FULL }, told(pair))
        pair.log = {}
        pair:after(6000):sees(P, "ok"):writes(P, false)
        assert.are.same({}, told(pair))
        for _ = 1, 3 do
            pair:after(5500):sees(P, "ok"):writes(P)
        end
        assert.are.same({ "disk: dbid 2's data directory can be written again" }, told(pair))
        assert.is_nil(pair:asked("decide"))
        pair.log = {}
        -- What was answered about other facts is no answer to these.
        pair:after(6000):writes(P, "Read-only")
        assert.are.same({ "disk: dbid 2's data directory cannot be written: Read-only",
            "alert: the primary's data directory cannot be written: Read-only" }, told(pair))
        pair:after(6000):writes(P)
        pair.log = {}
        pair:after(6000):writes(P, "Read-only")
        assert.are.equal(2, #told(pair))
        assert.are.same({}, pair:story())
        assert.are.equal("in_sync", pair:state())
    end)

    it("of a mirror likewise", function()
        local pair = new():settle():writes(M, FULL)
        assert.are.same({ "disk: dbid 3's data directory cannot be written: " .. FULL,
            "alert: the mirror's data directory cannot be written: " .. FULL }, told(pair))
        pair.log = {}
        pair:after(6000):writes(M)
        assert.are.equal(1, #told(pair))
        assert.are.same({}, pair:story())
    end)

    it("is no reason to promote or release, whatever a policy says", function()
        for _, action in ipairs({ "promote", "release" }) do
            local pair = new({ policy = function()
                return { action = action, reason = "spec" }
            end }):settle():writes(P, FULL)
            for _ = 1, 5 do
                pair:after(1000):sees(P, "ok"):sees(M, "ok")
            end
            assert.are.same({}, pair:story(), action)
        end
    end)

    it("does not keep the mirror of a primary that dies of it from taking over", function()
        local pair = new():settle():writes(P, FULL)
        pair:after(1000):sees(P, "reset"):sees(M, "ok"):says(P, pair_of.stopped)
        assert.are.same({ "promote" }, pair:story())
        assert.are.equal("the primary is stopped, by its host's word", pair:asked("promote").reason)
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
        assert.is_not_nil(pair:asked("ask", P))
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

    it("is no double fault before the catalog was read again: somebody may be at work", function()
        local pair = pair_of.new({ mode = "n", status = "d" }):settle()
        pair.input.looked_at = pair.now
        pair:after(100):sees(P, "reset"):says(P, pair_of.stopped)
        assert.is_nil(pair:asked("double_fault"))
        pair.input.looked_at = pair.now
        pair:event({ kind = "tick" })
        assert.is_not_nil(pair:asked("double_fault"))
    end)

    it("does nothing that changes anything without the lease", function()
        local pair = new({ leader = false }):settle()
        pair:after(5):sees(P, "reset"):sees(M, "ok"):says(P, pair_of.stopped)
        assert.are.same({}, pair:story())
        for _, word in ipairs({ {}, { standby_signal = false } }) do
            pair = new({ leader = false, mode = "n", status = "d" })
            pair:sees(P, "ok"):sees(M, "ok"):says(P, {}):says(M, word)
            assert.are.same({}, pair:story())
        end
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

    it("is replaced when it was lost before it was seen after a handover, by a mirror that " ..
        "follows the history that was armed", function()
        for _, case in ipairs({ { 2, true }, { 1, false }, { nil, false } }) do
            local pair = new():settle()
            local input = pair.input
            input.primary, input.mirror = input.mirror, input.primary
            input.primary.role, input.mirror.role = "p", "m"
            input.pair = { epoch = 12, role_epoch = 11, promoted_epoch = 11,
                           armed_name = "mr_0_2_12", armed_timeline = case[1] }
            -- The mirror answers on the new timeline; the primary was last seen on the old one.
            pair:after(500):sees(P, "ok", { in_recovery = true, timeline = 2, lsn = 6000 })
            pair:after(1):sees(M, "refused"):says(M, pair_of.stopped)
            pair:after(1):sees(P, "ok", { in_recovery = true, timeline = 2, lsn = 6000 })
            assert.are.equal(case[2], pair:asked("promote") ~= nil)
            pair:after(1500):sees(P, "ok", { in_recovery = true, timeline = 2, lsn = 6000 })
            assert.are.equal(case[2], pair:asked("refused") == nil)
        end
    end)

    it("is asked for again soon when it refuses and its postmaster seems to live", function()
        local pair = new():settle()
        local hung = { postmaster = { alive = true } }
        pair:after(100):sees(P, "refused"):sees(M, "ok"):says(P, hung)
        pair.log = {}
        assert.are.equal(pair.now + 100, pair.memory.wake)
        pair:after(99):event({ kind = "tick" })
        assert.is_nil(pair:asked("ask", P))
        pair:after(1):event({ kind = "tick" })
        assert.is_not_nil(pair:asked("ask", P))
        pair:after(1):says(P, pair_of.stopped):sees(M, "ok")
        assert.are.same({ "promote" }, pair:story())
        -- One that goes on living is asked for each second.
        pair = new():settle()
        pair:after(100):sees(P, "refused"):sees(M, "ok")
        for _ = 1, 19 do
            pair:says(P, hung):after(100):event({ kind = "tick" })
            assert.is_not_nil(pair:asked("ask", P))
            pair.log = {}
        end
        pair:after(200):says(P, hung):after(999):event({ kind = "tick" })
        assert.is_nil(pair:asked("ask", P))
        pair:after(1):event({ kind = "tick" })
        assert.is_not_nil(pair:asked("ask", P))
    end)

    it("is recorded by the epoch of the pair it was decided by", function()
        local pair = new():settle()
        pair:after(100):sees(P, "reset"):sees(M, "ok"):says(P, pair_of.stopped)
        assert.are.equal(10, pair:asked("promote").seen)
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
        pair:after(100):sees(P, "reset"):sees(M, "ok"):says(P, pair_of.gone)
        pair:result("primary", false)
        assert.are.same({ "fence 2" }, pair:story())
        assert.are.equal(pair.now + 200, pair.memory.wake)
        pair:after(200):event({ kind = "tick" })
        assert.are.same({ "fence 2", "fence 2" }, pair:story())
    end)

    it("promotes, marks the old one, and tells what was promoted", function()
        local pair = new():settle()
        pair:after(100):sees(P, "reset"):sees(M, "ok"):says(P, pair_of.stopped)
        pair:after(3):recorded("promote")
        assert.are.same({ "promote", "promote 3" }, pair:story())
        assert.is_not_nil(pair:asked("ask", P))
        pair:after(20):says(P, { stopped = true, standby_signal = false })
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
            pair:after(500):sees(P, "recovering"):sees(M, "ok")
            pair:says(P, { recovery = { progress = 7 } })
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

    it("asks one that is silent again at once, since silence has taken its time already", function()
        local pair = new():settle()
        pair:after(2000):sees(P, "timeout", { took = 2000 })
        pair.log = {}
        pair:after(2000):sees(P, "timeout", { took = 2000 })
        assert.is_not_nil(pair:asked("probe", P))
    end)

    it("that still answers is never replaced without a fence, whatever its host says", function()
        local pair = new():settle()
        for _ = 1, 60 do
            pair:after(1000):sees(P, "recovering"):sees(M, "ok"):says(P, false)
        end
        assert.is_nil(pair:asked("promote"))
        assert.are.equal("fence 2", pair:story()[1])
    end)

    it("notices a postmaster that hangs while its sessions are served", function()
        local pair = new():settle()
        local began = pair.now
        repeat
            pair:after(1000):sees(P, "ok"):sees(P, "timeout", { fresh = true, took = 1000 })
            pair:sees(M, "ok")
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
        pair:after(100):sees(P, "refused"):sees(M, "ok", { replay_paused = true })
        pair:says(P, pair_of.stopped)
        for _ = 1, 10 do
            pair:after(1000):sees(M, "ok", { replay_paused = true }):sees(P, "refused")
        end
        assert.are.same({}, pair:story())
        assert.are.equal(1, pair:count("refused"))
        assert.matches("rule 1: replay is paused", pair:asked("refused").text)
    end)

    it("is not stopped because its directory is not to be found: nobody listens either", function()
        local pair = new():settle()
        local moved = { kind = "missing", stopped = true, processes = {}, postmaster = false }
        pair:after(100):sees(P, "reset"):sees(M, "ok"):says(P, moved)
        for _ = 1, 5 do
            pair:after(1000):sees(P, "timeout"):sees(M, "ok"):says(P, moved)
        end
        assert.is_nil(pair:asked("promote"))
        pair:result("primary", false):after(1000):sees(P, "refused"):sees(M, "ok"):says(P, moved)
        assert.is_not_nil(pair:asked("promote"))
    end)

    it("asks again when a stopped server is seen to start", function()
        local pair = new({ mode = "n" }):settle()
        pair:after(100):sees(P, "reset"):says(P, pair_of.stopped)
        pair.log = {}
        pair:after(2000):sees(P, "starting")
        assert.is_not_nil(pair:asked("ask", P))
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
