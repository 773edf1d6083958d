local mr = require("moonrise")
local policy = require("lib.policy")

local copy = require("tests.lib.copy")

local GOOD = [[return { decide = function(facts)
    return { action = "wait", until_ms = 500, reason = "mine" }
end }]]

local function answers(text)
    return ("return { decide = function() return { %s } end }"):format(text)
end

-- A policy for each way of misbehaving, and what its report says.
local broken = {
    { "does not parse", "return {", "near" },
    { "is no table of functions", "return 7", "" },
    { "raises", 'return { decide = function() error("no idea") end }', "no idea" },
    { "raises something that is no text", "return { decide = function() error({}) end }", "" },
    { "never ends", "return { decide = function() while true do end end }", "" },
    { "never ends and catches",
        [[return { decide = function()
            while true do pcall(function() while true do end end) end
        end }]], "" },
    { "fills memory",
        "return { decide = function() local t = {} for i = 1, 1e9 do t[i] = { i } end end }", "" },
    { "builds an enormous text",
        'return { decide = function() local s = "x" while true do s = s .. s end end }', "" },
    { "answers nothing", "return { decide = function() end }", "answered nothing" },
    { "answers a number", "return { decide = function() return 7 end }", "no table" },
    { "answers a function", "return { decide = function() return { action = print } end }", "" },
    { "answers another word",
        'return { decide = function() return { action = "reboot", reason = "x" } end }',
            "action is none" },
    { "gives no reason", 'return { decide = function() return { action = "nothing" } end }',
        "reason" },
    { "waits for no time",
        'return { decide = function() return { action = "wait", reason = "x" } end }', "until_ms" },
    { "waits for nan",
        answers('action = "wait", reason = "x", until_ms = 0 / 0'), "until_ms" },
    { "waits since yesterday",
        answers('action = "wait", reason = "x", until_ms = -1'), "until_ms" },
    { "accepts a loss without words",
        answers('action = "promote", reason = "x", accept_loss = " "'), "accept_loss is no text" },
    { "accepts a loss in too many words",
        answers('action = "promote", reason = "x", accept_loss = ("x"):rep(501)'),
        "accept_loss is no text" },
    { "accepts a loss by a nod",
        answers('action = "promote", reason = "x", accept_loss = true'), "accept_loss is no text" },
    { "accepts a loss and promotes nobody",
        answers('action = "alert", reason = "x", accept_loss = "y"'), "goes with action promote" },
    { "requires", 'return { decide = function() require("os").exit(7) end }', "" },
    { "reaches for files", 'return { decide = function() return io.open("/etc/passwd") end }', "" },
    { "writes a global and is asked again", 'return { decide = function() x = 1 return y end }',
        "" },
}

local FACTS = {
    content = 0, coordinator = false, mode = "s", state = "primary_lost",
    primary = { dbid = 2, host = "h", status = "u", condition = "stopped", evidence = "refused",
                tries = 1, bad_ms = 5, still_ms = 5 },
    mirror = { dbid = 3, host = "h", status = "u", condition = "fine", evidence = "ok", tries = 0,
               bad_ms = 0, still_ms = 0 },
    replication = { streaming = false, unstreamed_ms = 0, stalled_ms = 0, waiting = 0,
                    flapping = false, heard = false },
    settings = { patience_tries = 5, patience_ms = 10000, grace_ms = 30000,
                 recovery_stall_ms = 30000, shutdown_ms = 60000 },
}

describe("policy", function()
    local path, faults, opened

    before_each(function()
        path, faults = os.tmpname(), {}
    end)

    after_each(function()
        if opened then
            opened:close()
            opened = nil
        end
        os.remove(path)
    end)

    local function open(text)
        local file = assert(io.open(path, "w"))
        file:write(text)
        file:close()
        opened = policy.open({ files = { failover = path }, on_fault = function(kind, where, err)
            table.insert(faults, { kind = kind, file = where, text = tostring(err) })
        end })
        return opened
    end

    it("of the user decides", function()
        local answer, meta = open(GOOD):ask("failover", FACTS)
        assert.are.same({ action = "wait", until_ms = 500, reason = "mine" }, answer)
        assert.are.equal(path, meta.file)
        assert.are.same({}, faults)
    end)

    for _, case in ipairs(broken) do
        it(("that %s is reported, and the packaged one decides"):format(case[1]), function()
            local answer, meta = open(case[2]):ask("failover", FACTS)
            assert.are.equal("promote", answer.action)
            assert.is_true(meta.default)
            assert.are.equal(1, #faults)
            assert.are.equal("failover", faults[1].kind)
            assert.is_not_nil(faults[1].text:find(case[3], 1, true), faults[1].text)
            assert.are.equal("promote", opened:ask("failover", FACTS).action)
        end)
    end

    it("that fails again and again is left alone, and costs nothing more", function()
        open("return { decide = function() while true do end end }")
        for _ = 1, 5 do
            opened:ask("failover", FACTS)
        end
        local began = mr.clock()
        for _ = 1, 20 do
            local answer, meta = opened:ask("failover", FACTS)
            assert.are.equal("promote", answer.action)
            assert.is_not_nil(meta.fault)
        end
        assert.are.equal(5, #faults)
        assert.is_true(mr.clock() - began < 500)
    end)

    it("may be a file that returns just the function", function()
        local text = 'return function() return { action = "nothing", reason = "f" } end'
        local answer = open(text):ask("failover", FACTS)
        assert.are.equal("f", answer.reason)
    end)

    it("may accept a loss in writing", function()
        local text = 'return function() return { action = "promote", reason = "r", ' ..
            'accept_loss = "ticket 17" } end'
        assert.are.same({ action = "promote", reason = "r", accept_loss = "ticket 17" },
            (open(text):ask("failover", FACTS)))
    end)

    it("packaged ones answer, and so do the examples", function()
        for _, name in ipairs({ "patient", "last_resort" }) do
            local files = { failover = mr.policies_dir .. "/examples/" .. name .. ".lua" }
            opened = policy.open({ files = files,
                on_fault = function(_, _, err) error(tostring(err)) end })
            assert.are.equal("promote", opened:ask("failover", FACTS).action)
        end
        local facts = { instances = { { dbid = 4, content = 0, kind = "datadir", why = "",
                                        possible = { differential = true }, prices = {},
                                        data_bytes = 5 } } }
        opened = policy.open({
            files = { recovery = mr.policies_dir .. "/examples/small_first.lua" },
            on_fault = function(_, _, err) error(tostring(err)) end,
        })
        assert.are.equal("differential", opened:ask("recovery", facts).instances[1].type)
        assert.are.same({ waves = { { 3 } } },
            opened:ask("rebalance", { pairs = { { content = 3, mode = "s",
            mirror_status = "u", primary_host = "a", mirror_host = "b" } } }))
    end)
end)

describe("the policy of last resort", function()
    local decide = dofile("policies/examples/last_resort.lua").decide

    local function ask(more)
        return decide(copy({ state = "double_fault", mode = "n", coordinator = false,
            primary = { condition = "stopped", bad_ms = 3600000 },
            mirror = { condition = "fine" } }, more))
    end

    it("accepts a loss after an hour, and only for a primary that is gone", function()
        assert.are.equal("promote", ask().action)
        assert.is_string(ask().accept_loss)
        local early = ask({ primary = { condition = "stopped", bad_ms = 3599000 } })
        assert.are.same({ "alert", 1000 }, { early.action, early.until_ms })
        for _, more in ipairs({ { primary = { condition = "unreachable", bad_ms = 1e9 } },
            { primary = { condition = "hung", bad_ms = 1e9 } }, { coordinator = true },
            { mirror = { condition = "stopped" } }, { mirror = false } }) do
            assert.are.equal("alert", ask(more).action)
        end
        -- What is in sync is promoted without any loss.
        local synced = ask({ mode = "s", state = "primary_lost" })
        assert.are.same({ "promote", nil }, { synced.action, synced.accept_loss })
    end)
end)

describe("policy answers", function()
    local failed = { instances = { { dbid = 4, possible = { full = true, differential = false } },
                                   { dbid = 5, possible = { full = true } } } }

    local function why(kind, answer, facts)
        local clean, text = policy.check(kind, answer, facts)
        assert.is_nil(clean)
        return text
    end

    it("of recovery name failed instances once, with a possible type", function()
        assert.matches("no list", why("recovery", { instances = 3 }, failed))
        assert.matches("none of the failed",
            why("recovery", { instances = { { dbid = 9, type = "full" } } }, failed))
        assert.matches("not possible",
            why("recovery", { instances = { { dbid = 4, type = "differential" } } }, failed))
        assert.matches("named twice", why("recovery", { instances = { { dbid = 4, type = "full" },
            { dbid = 4, type = "full" } } }, failed))
        assert.matches("max_rate",
            why("recovery", { instances = { { dbid = 4, type = "full", max_rate = "x" } } },
            failed))
        assert.are.same({ instances = { { dbid = 5, type = "full" } } },
            policy.check("recovery", { instances = { { dbid = 5, type = "full", other = 1 } } },
                failed))
    end)

    it("of rebalance name pairs that are out of place once", function()
        local facts = { pairs = { { content = 1 }, { content = 2 } } }
        assert.matches("waves is no list", why("rebalance", {}, facts))
        assert.matches("not out of place", why("rebalance", { waves = { { 7 } } }, facts))
        assert.matches("twice", why("rebalance", { waves = { { 1 }, { 1 } } }, facts))
        assert.are.same({ waves = { { 2 }, { 1 } } },
            policy.check("rebalance", { waves = { { 2 }, { 1 } } }, facts))
    end)

    it("on the command line name a policy and a file that exists", function()
        assert.are.same({}, policy.parse(nil))
        assert.matches("expected failover=FILE", select(2, policy.parse({ "failover" })))
        assert.matches("expected failover=FILE", select(2, policy.parse({ "restart=x" })))
        assert.matches("there is no file", select(2, policy.parse({ "failover=/nowhere.lua" })))
        local path = mr.policies_dir .. "/failover.lua"
        assert.are.same({ failover = mr.real_path(path) }, policy.parse({ "failover=" .. path }))
    end)

    it("in cluster.lua are taken from its text", function()
        assert.are.same({ recovery = "/r.lua" },
            policy.configured('return { policies = { recovery = "/r.lua", failover = 7 } }'))
        assert.are.same({}, policy.configured("return {"))
        assert.are.same({}, policy.configured(nil))
    end)
end)
