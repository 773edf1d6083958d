local copy = require("tests.lib.copy")

local decide = dofile("policies/failover.lua").decide

local SETTINGS = { patience_tries = 5, patience_ms = 10000, grace_ms = 30000,
                   recovery_stall_ms = 30000, shutdown_ms = 60000 }

local function instance(more)
    return copy({ dbid = 2, host = "h", status = "u", condition = "fine", evidence = "ok",
                  tries = 0, bad_ms = 0, still_ms = 0 }, more)
end

local function ask(state, primary, mirror, more)
    local facts = {
        content = 0, coordinator = false, mode = "s", state = state, settings = SETTINGS,
        primary = instance(primary), mirror = mirror ~= false and instance(mirror) or nil,
        replication = { streaming = true, unstreamed_ms = 0, stalled_ms = 0, waiting = 0,
                        flapping = false, heard = false },
    }
    for k, v in pairs(more or {}) do
        if facts.replication[k] ~= nil then
            facts.replication[k] = v
        else
            facts[k] = v
        end
    end
    return decide(facts)
end

local function silent(condition, tries, bad_ms)
    return { condition = condition, evidence = "timeout", tries = tries, bad_ms = bad_ms }
end

local nameless = { condition = "unresolved", evidence = "unresolved", tries = 99, bad_ms = 99000 }

local primaries = {
    { "stopped", { condition = "stopped", evidence = "refused", tries = 1 }, "promote" },
    { "gone", { condition = "gone", evidence = "reset", tries = 1 }, "promote" },
    { "hung for long enough", silent("hung", 5, 10000), "promote" },
    { "at an address that is not known here", nameless, "alert" },
    { "hung, too few tries", silent("hung", 4, 20000), "wait" },
    { "hung, too short", silent("hung", 9, 9999), "wait" },
    { "cut off for long enough", silent("cut_off", 5, 10000), "promote" },
    { "cut off, too short", silent("cut_off", 9, 9999), "wait" },
    { "unreachable for long enough", silent("unreachable", 5, 10000), "promote" },
    { "unreachable, too short", silent("unreachable", 5, 3000), "wait" },
    { "in crash recovery that advances",
      { condition = "busy", evidence = "recovering", bad_ms = 3600000, still_ms = 500 }, "wait" },
    { "in crash recovery that stands still",
      { condition = "busy", evidence = "starting", bad_ms = 40000, still_ms = 30000 }, "promote" },
    { "shutting down", { condition = "busy", evidence = "shutting_down", bad_ms = 59000 }, "wait" },
    { "shutting down for ever", { condition = "busy", evidence = "shutting_down", bad_ms = 60000 },
        "promote" },
    { "full of clients", { condition = "busy", evidence = "too_many", bad_ms = 3600000 }, "alert" },
    { "another system", { condition = "wrong_system", evidence = "wrong_system", bad_ms = 60000 },
        "alert" },
    { "suspect", { condition = "suspect", evidence = "reset" }, "wait" },
}

local mirrors = {
    { "stopped", { condition = "stopped" }, {}, "release" },
    { "gone", { condition = "gone" }, {}, "release" },
    { "hung within its grace", silent("hung", 9, 29000), {}, "wait" },
    { "hung beyond it", silent("hung", 9, 30000), {}, "release" },
    { "at an address that is not known here", nameless, {}, "alert" },
    { "cut off from us only", silent("cut_off", 99, 99000), {}, "alert" },
    { "cut off from us only, not for long", silent("cut_off", 99, 9999), {}, "wait" },
    { "cut off from its primary, too", silent("cut_off", 99, 30000),
        { streaming = false, unstreamed_ms = 30000 }, "release" },
    { "cut off, while commits hang", silent("cut_off", 9, 12000),
        { stalled_ms = 10000, waiting = 2 }, "release" },
    { "there likewise, not streaming for long", nameless,
        { streaming = false, unstreamed_ms = 30000 }, "release" },
    { "there likewise, while commits hang", nameless, { stalled_ms = 10000, waiting = 2 },
        "release" },
    { "promoted by somebody", { condition = "wrong_role" }, {}, "release" },
    { "another system", { condition = "wrong_system" }, {}, "release" },
    { "there, not streaming", {}, { streaming = false, unstreamed_ms = 29000 }, "wait" },
    { "there, not streaming for long", {}, { streaming = false, unstreamed_ms = 30000 },
        "release" },
    { "failing again and again", {}, { flapping = true }, "release" },
    { "silent while commits hang", silent("hung", 5, 9000), { stalled_ms = 10000, waiting = 2 },
        "release" },
    { "silent while commits hang a little", silent("hung", 2, 3000),
        { stalled_ms = 3000, waiting = 2 }, "wait" },
}

describe("failover policy", function()
    for _, case in ipairs(primaries) do
        it(("with a primary that is %s: %s"):format(case[1], case[3]), function()
            local answer = ask("primary_lost", case[2])
            assert.are.equal(case[3], answer.action, answer.reason)
            assert.is_true(answer.action ~= "wait" or answer.until_ms >= 50)
        end)
    end

    for _, case in ipairs(mirrors) do
        it(("with a mirror that is %s: %s"):format(case[1], case[4]), function()
            local answer = ask("mirror_lost", nil, case[2], case[3])
            assert.are.equal(case[4], answer.action, answer.reason)
        end)
    end

    it("waits while the mirror still hears a silent primary", function()
        assert.are.equal("wait",
            ask("primary_lost", silent("unreachable", 50, 99000), {}, { heard = true }).action)
    end)

    it("leaves a primary alone that its own host and its mirror hear", function()
        local answer = ask("primary_lost", silent("cut_off", 50, 99000), {}, { heard = true })
        assert.are.equal("alert", answer.action)
        assert.matches("look at the network", answer.reason)
        assert.are.equal("wait", ask("primary_lost", silent("cut_off", 50, 9999), {},
            { heard = true }).action)
    end)

    it("has a hung primary ended, though its mirror hears the sessions that go on", function()
        assert.are.equal("promote",
            ask("primary_lost", silent("hung", 5, 10000), {}, { heard = true }).action)
    end)

    it("alerts when new sessions are refused beside those that there are", function()
        local answer = ask("in_sync", { refusal = "too_many" }, {})
        assert.are.equal("alert", answer.action)
        assert.matches("primary.*too many clients", answer.reason)
        assert.matches("mirror.*memory", ask("alone", nil, { refusal = "sqlstate" }).reason)
    end)

    it("asks to be asked again when its patience ends", function()
        assert.are.equal(7000, ask("primary_lost", silent("hung", 2, 3000)).until_ms)
    end)

    it("promotes nothing that is not in sync, has no mirror, or is the coordinator", function()
        local gone = { condition = "stopped" }
        assert.are.equal("alert",
            ask("double_fault", gone, { status = "d" }, { mode = "n" }).action)
        assert.are.equal("alert", ask("double_fault", gone, false).action)
        assert.are.equal("alert", ask("primary_lost", gone, {}, { coordinator = true }).action)
    end)

    it("alerts, and does no more, when a disk fails beside a primary that serves", function()
        for _, state in ipairs({ "in_sync", "catching_up", "mirror_down", "alone" }) do
            assert.are.equal("nothing", ask(state, nil, state ~= "alone" and {} or false).action)
            local answer = ask(state, { disk_error = "No space left on device" },
                state ~= "alone" and {} or false)
            assert.are.equal("alert", answer.action, state)
            assert.matches("primary.*No space left", answer.reason)
        end
        local answer = ask("in_sync", nil, { disk_error = ("x"):rep(600) })
        assert.are.equal("alert", answer.action)
        assert.matches("^the mirror's", answer.reason)
        assert.is_true(#answer.reason <= 500)
    end)

    it("says the same to the same alarm, however long it lasts", function()
        local first = ask("double_fault", { condition = "stopped", bad_ms = 5 }, {}, { mode = "n" })
        local later = ask("double_fault", { condition = "stopped", bad_ms = 5e6 }, {},
            { mode = "n" })
        assert.are.equal(first.reason, later.reason)
    end)
end)
