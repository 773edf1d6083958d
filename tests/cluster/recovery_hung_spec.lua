--- A mirror that hangs or is half dead: `state` says so within its deadline, and every type of
--- recovery ends what is left of it and goes on.

local hurt = require("tests.lib.hurt")
local losing = require("tests.lib.losing")
local place_of = require("tests.lib.place")
local wait = require("tests.lib.wait")

describe("recoverseg of", function()
    local place, pair

    setup(function()
        place = place_of.new()
        pair = losing.pair(place)
        pair.cluster:primary(0):sql("create extension amcheck; " ..
            "create table t as select generate_series(1, 1000) i")
    end)

    teardown(place_of.close_all)

    local cases = {
        { "a postmaster that hangs", hurt.stop_postmaster, "", "start", "does not answer" },
        { "a server that hangs as a whole", hurt.stop_tree, "--differential", "differential",
            "does not answer" },
        { "what outlived its postmaster", hurt.leave_backend, "", "start", "may be down" },
        { "what outlived its postmaster, as a whole", hurt.leave_backend, "-F", "full",
            "may be down" },
    }

    for _, case in ipairs(cases) do
        local name, harm, option, kind, status = unpack(case)
        it(name, function()
            pair:heal()
            local pid = pair.target:pid()
            local left = harm(pair.target)
            local began = wait.now()
            local said = pair.cluster:moonrise({ "state", "-e" })
            assert.is_true(wait.now() - began < 20)
            assert.matches(status, said.out)
            pair:record_down()
            pair:recovers(kind, option ~= "" and option or nil)
            assert.is_false(place_of.alive(pid))
            assert.is_false(type(left) == "number" and place_of.alive(left))
        end)
    end
end)
