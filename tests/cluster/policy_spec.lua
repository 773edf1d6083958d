--- Policies that misbehave under the real watcher and the real commands: each is reported with its
--- file (and line), the packaged one decides, and whoever asked lives on.

local cluster_of = require("tests.lib.cluster")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

local SOON_S = wait.SOON_S

-- What a policy does wrong, its text, and what is said of it. tests/cluster/watch_spec.lua has the
-- endless loop, tests/spec/sandbox_attack_spec.lua what else can be tried.
local MISDEEDS = {
    { "an endless loop that catches its own end", [[
return { decide = function()
    while true do pcall(function() while true do end end) end
end }]], "misdeed.lua" },
    { "an enormous table", [[
return { decide = function()
    local t = {}
    for i = 1, 1e9 do t[i] = { i } end
end }]], "misdeed.lua" },
    { "a syntax error", "return {\n decide = functoin()\n}", "misdeed.lua:2" },
    { "an error in the middle", [[
return { decide = function(facts)
    local condition = facts.primary.condition
    return { action = facts.nothing[condition], reason = "x" }
end }]], "misdeed.lua:3" },
    { "a wrong answer", 'return { decide = function() return { action = "panic" } end }',
      "misdeed.lua.*action is none of" },
}

describe("a policy with", function()
    local place, cluster, watch

    setup(function()
        place = place_of.new()
        cluster = cluster_of.new(place, { segments = 1 })
        cluster:init()
    end)

    teardown(place_of.close_all)

    before_each(function()
        cluster:recover()
    end)

    after_each(function()
        cluster:unwatch(SOON_S)
    end)

    for _, misdeed in ipairs(MISDEEDS) do
        it(misdeed[1] .. " is reported, the packaged one decides, the watcher lives", function()
            local file, since = place:write("misdeed.lua", misdeed[2]), cluster:journal_end()
            watch = cluster:watch("--policy", "failover=" .. file)
            watch:says("watching", SOON_S)
            local mirror = cluster:mirror(0)
            cluster:primary(0):kill()
            cluster:wait_row({ dbid = mirror.dbid, role = "p" }, SOON_S)
            wait.eventually("the new primary to take writes", SOON_S, function()
                return mirror:value("pg_is_in_recovery()") == "f"
            end)
            local fault = cluster:journal({ kind = "policy_fault", since = since })[1]
            assert.matches(misdeed[3], fault.text)
            assert.matches("the packaged one decides", fault.text)
            assert.matches("misdeed.lua", watch:output())
            assert.is_nil(watch:code())
            assert.are.equal(0, cluster:unwatch(SOON_S))
        end)
    end

    -- What the command says of a policy of its own; it succeeds all the same.
    local function command(kind, text, args)
        local file = place:write("misdeed.lua", text)
        table.insert(args, "--policy")
        table.insert(args, kind .. "=" .. file)
        local result = cluster:moonrise(args)
        assert.are.equal(0, result.code, result.out .. result.err)
        return result.out .. result.err
    end

    it("an endless loop or a wrong answer does not keep recoverseg from its work", function()
        watch = cluster:watch()
        watch:says("watching", SOON_S)
        local endless = "return { decide = function() while true do end end }"
        for _, text in ipairs({ endless,
            'return { decide = function() return { instances = { { dbid = 99 } } } end }' }) do
            local mirror = cluster:mirror(0)
            mirror:kill()
            cluster:wait_row({ dbid = mirror.dbid, status = "d" }, SOON_S)
            assert.matches("misdeed.lua", command("recovery", text, { "recoverseg", "-a" }))
            cluster:wait_healthy()
        end
        local mirror = cluster:mirror(0)
        if mirror.preferred_role == "m" then
            cluster:primary(0):kill()
            cluster:wait_row({ dbid = mirror.dbid, role = "p" }, SOON_S)
            cluster:recover()
        end
        assert.matches("misdeed.lua", command("rebalance", endless,
            { "recoverseg", "-a", "-r" }))
        cluster:wait_healthy(nil, true)
        assert.are.equal(0, cluster:unwatch(SOON_S))
    end)
end)
