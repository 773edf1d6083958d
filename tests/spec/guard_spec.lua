local guard = require("lib.guard")

-- Facts with which everything is allowed; each case breaks one of them.
local function sound()
    return {
        leader = true, content = 0, mode = "s", mirror_status = "u",
        primary = { stopped = true, host_answers = true, heard = false, server_version = 150020,
                    sync_commit = "on" },
        mirror = { answered = true, in_recovery = true, sysid = "7", timeline = 3, lsn = 1000,
                   replay_lsn = 900, replay_paused = false, sync_names = "", marked = false,
                   epoch_valid = true, streaming = true, behind_promotion = false },
        expected = { sysid = "7", timeline = 3, flush_lsn = 1000, primary_lsn = 1000 },
        bounds = { replay_lag_bytes = 500, arm_lag_bytes = 100 },
    }
end

local NONE = {}

local function set(facts, path, value)
    local owner, key = facts, path
    local first, second = path:match("^(%w+)%.([%w_]+)$")
    if first then
        owner, key = facts[first], second
    end
    if value == NONE then
        owner[key] = nil
    else
        owner[key] = value
    end
end

-- What is broken, with which value, and the rule that must refuse it.
local everywhere = {
    { "leader", false, 6 }, { "leader", NONE, 6 }, { "lease", "recoverseg on sdw1", 6 },
    { "unconfirmed", true, 8 }, { "content", -1, 8 },
}

local held = { { "paused", "maintenance", 6 } }

local promotion = {
    { "mode", "n", 1 }, { "mirror_status", "d", 1 }, { "mirror.answered", false, 1 },
    { "mirror.answered", NONE, 1 }, { "mirror.in_recovery", false, 1 }, { "mirror.sysid", "8", 1 },
    { "mirror.sysid", NONE, 1 }, { "expected.sysid", NONE, 1 }, { "mirror.timeline", 2, 1 },
    { "mirror.timeline", NONE, 1 }, { "expected.timeline", NONE, 1 },
    { "mirror.lsn", 999, 1 }, { "mirror.lsn", NONE, 1 }, { "mirror.replay_paused", true, 1 },
    { "primary.disarmed", true, 1 }, { "mirror.marked", true, 3 },
}

local fenced = { { "primary.stopped", false, 3 }, { "primary.stopped", NONE, 3 } }

local release = { { "mode", "s", 2 } }

local arm = {
    { "mirror_status", "d", 2 }, { "mirror.streaming", false, 1 }, { "mirror.sync_names", "*", 1 },
    { "mirror.replay_lsn", 400, 1 }, { "mirror.replay_lsn", NONE, 1 }, { "mirror.lsn", 800, 1 },
    { "primary.sync_commit", "local", 1 }, { "primary.sync_commit", "remote_write", 1 },
    { "primary.sync_commit", "off", 1 }, { "primary.sync_commit", NONE, 1 },
    { "primary.server_version", 150012, 1 }, { "primary.server_version", 170004, 1 },
    { "primary.server_version", NONE, 1 }, { "mirror.marked", true, 3 },
    { "mirror.epoch_valid", false, 3 },
    { "mirror.behind_promotion", true, 9 }, { "mirror.in_recovery", false, 1 },
    { "mirror.replay_paused", true, 1 }, { "mirror.timeline", 2, 1 },
    { "mirror.timeline", NONE, 1 }, { "expected.timeline", NONE, 1 },
}

local function case_name(case)
    return ("%s = %s breaks rule %d"):format(case[1],
        case[2] == NONE and "nothing" or tostring(case[2]),
        case[3])
end

local function refuses(which, facts, cases)
    for _, case in ipairs(cases) do
        it(case_name(case), function()
            local broken = facts()
            assert.is_true(guard[which](broken))
            set(broken, case[1], case[2])
            local ok, refusal = guard[which](broken)
            assert.is_nil(ok)
            assert.are.equal(case[3], refusal.rule)
            assert.is_string(refusal.reason)
        end)
    end
end

describe("guard", function()
    describe("of a promotion", function()
        refuses("promote", sound, everywhere)
        refuses("promote", sound, held)
        refuses("promote", sound, promotion)
        refuses("promote", sound, fenced)

        it("goes without the host's word only when nothing is heard of the primary", function()
            local facts = sound()
            facts.primary.stopped, facts.primary.host_answers = false, false
            assert.is_true(guard.promote(facts))
            facts.primary.heard = true
            assert.are.equal(3, select(2, guard.promote(facts)).rule)
        end)

        it("wants the history to be known, not only to be the same", function()
            local facts = sound()
            facts.mirror.timeline, facts.expected.timeline = nil, nil
            assert.are.equal(1, select(2, guard.promote(facts)).rule)
        end)

        it("of what is not in sync wants a loss accepted in writing", function()
            local facts = sound()
            facts.mode, facts.accept_loss = "n", ""
            assert.is_nil(guard.promote(facts))
            facts.accept_loss = "ticket 17, J. Doe"
            assert.is_true(guard.promote(facts))
        end)

        it("that loses commits wants its primary seen stopped, by its host or a person", function()
            for _, lacks in ipairs({ { "mode", "n" }, { "mirror_status", "d" },
                { "primary.disarmed", true } }) do
                local facts = sound()
                facts.accept_loss = "ticket 17, J. Doe"
                set(facts, lacks[1], lacks[2])
                assert.is_true(guard.promote(facts))
                facts.primary.stopped, facts.primary.host_answers = false, false
                assert.are.equal(3, select(2, guard.promote(facts)).rule)
                facts.primary.said_gone = true
                assert.is_true(guard.promote(facts))
                facts.primary.heard = true
                assert.are.equal(3, select(2, guard.promote(facts)).rule)
            end
        end)

        it("of what is marked, of another system or of another history takes no acceptance",
            function()
            for _, case in ipairs({ { "mirror.marked", true }, { "mirror.sysid", "8" },
                { "mirror.timeline", 2 }, { "mirror.in_recovery", false },
                { "mirror.replay_paused", true }, { "mirror.lsn", 999 } }) do
                local facts = sound()
                facts.accept_loss, facts.primary.said_gone = "ticket 17, J. Doe", true
                set(facts, case[1], case[2])
                assert.is_nil(guard.promote(facts), case[1])
            end
        end)

        it("goes for the coordinator with a majority alone", function()
            local facts = sound()
            facts.content, facts.majority = -1, true
            assert.is_true(guard.promote(facts))
        end)
    end)

    describe("of a fence before a promotion", function()
        local function running()
            local facts = sound()
            facts.primary.stopped = false
            return facts
        end
        refuses("fence", running, everywhere)
        refuses("fence", running, held)
        refuses("fence", running, promotion)
    end)

    describe("of a release", function()
        local function out()
            local facts = sound()
            facts.mode, facts.mirror_status = "n", "d"
            return facts
        end
        refuses("release", out, everywhere)
        refuses("release", out, release)
        refuses("record_out", sound, everywhere)
        refuses("record_out", sound, held)
        refuses("record_disarmed", sound, everywhere)
    end)

    describe("of arming", function()
        refuses("arm", sound, everywhere)
        refuses("arm", sound, arm)
    end)

    it("knows the minors whose commits wait from the first one on", function()
        for version, waits in pairs({
            [120022] = false, [130020] = false, [130021] = true, [140018] = true,
            [150012] = false, [150013] = true, [150020] = true, [160008] = false,
            [160009] = true, [170005] = true, [180000] = true,
        }) do
            assert.are.equal(waits, guard.server_waits(version), tostring(version))
        end
    end)

    it("let no mirror go whose primary is an older copy of itself, but promote it", function()
        local facts = sound()
        facts.primary.older_copy = "its WAL ends"
        for _, name in ipairs({ "record_out", "record_disarmed" }) do
            local ok, no = guard[name](facts)
            assert.is_nil(ok)
            assert.are.same({ rule = 9,
                reason = "the primary is an older copy of itself: its WAL ends" }, no)
        end
        assert.is_true(guard.promote(facts))
    end)

    describe("of a paused pair", function()
        it("tells until when, by whom and why", function()
            local facts = sound()
            facts.paused = "until 12:00 by joe@sdw1: new switches"
            assert.matches("paused here until 12:00 by joe@sdw1: new switches",
                select(2, guard.promote(facts)).reason, 1, true)
        end)

        it("lets it be armed, and lets it be known that commits do not wait", function()
            local facts = sound()
            facts.paused = "maintenance"
            assert.is_true(guard.arm(facts))
            assert.is_true(guard.record_disarmed(facts))
        end)
    end)
end)
