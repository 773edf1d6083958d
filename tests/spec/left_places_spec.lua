--- What is done about a place that an instance has left, by the words of its hosts and the catalog.
local copy = require("tests.lib.copy")
local left_places = require("lib.left_places")

local PLACE = { dbid = 4, content = 0, hostname = "h9", address = "h9", port = 7000,
                datadir = "/old" }
local SYSID = "7000000000000000001"

describe("a place that was left", function()
    local pair, words, orders, listed, busy, forgotten, ctx

    before_each(function()
        orders, forgotten, listed, busy = {}, false, { PLACE }, { [0] = {} }
        pair = { primary = { dbid = 3, content = 0, hostname = "h1", port = 7001, datadir = "/p" },
                 mirror = { dbid = 4, content = 0, hostname = "h2", port = 7002, datadir = "/m",
                              mode = "s" } }
        words = {
            ["/p"] = { identity = "h1 1:1", control = { sysid = SYSID } },
            ["/m"] = { identity = "h2 1:1" },
            ["/old"] = { identity = "h9 1:1", kind = "datadir", stopped = true,
                epoch = { valid = true, dbid = 4, sysid = SYSID } },
        }
        ctx = {
            agents = {
                inspect = function(_, inst)
                    return words[inst.datadir]
                end,
                order = function(_, _, op)
                    table.insert(orders, op)
                    return {}
                end,
            },
            cat = {
                pair = function()
                    return pair
                end,
                left_places = function()
                    return listed
                end,
                busy_places = function(_, content)
                    return busy and busy[content]
                end,
                journal = function() end,
                call = function(_, fn)
                    forgotten = forgotten or fn == "place_forget"
                    return 77
                end,
            },
        }
    end)

    it("is marked and ended, and goes when its pair is in sync", function()
        assert.equal("forgotten", left_places.settle(ctx, PLACE, 1))
        assert.same({ "mark", "fence", "remove_datadir", "slot" }, orders)
    end)

    it("does not take the slot of a copy that somebody makes elsewhere with it", function()
        busy[0] = { copy(PLACE, { datadir = "/another", busy_by = "me@there pid 1 boot x" }) }
        assert.equal("forgotten", left_places.settle(ctx, PLACE, 1))
        assert.same({ "mark", "fence", "remove_datadir" }, orders)
        busy, orders = { [0] = {}, busy[0] }, {}
        assert.equal("forgotten", left_places.settle(ctx, PLACE, 1))
        assert.same({ "mark", "fence", "remove_datadir", "slot" }, orders)
        busy, orders, forgotten = nil, {}, false
        assert.is_nil(left_places.settle(ctx, PLACE, 1))
        assert.is_false(forgotten)
    end)

    it("is sealed while nothing in sync has taken its place", function()
        for _, mirror in ipairs({ copy(pair.mirror, { mode = "n" }), false }) do
            orders, pair.mirror = {}, mirror or nil
            assert.equal("sealed", left_places.settle(ctx, PLACE, 1))
            assert.same({ "mark", "fence" }, orders)
        end
        assert.is_false(forgotten)
    end)

    it("is left alone when somebody copies to it by now", function()
        listed = { copy(PLACE, { datadir = "/another" }) }
        local done, err = left_places.settle(ctx, PLACE, nil)
        assert.is_nil(done)
        assert.equal("busy", err.code)
        assert.same({}, orders)
    end)

    it("is not forgotten when nobody can tell whose it is", function()
        words["/p"].control = nil
        local done, err = left_places.settle(ctx, PLACE, 1)
        assert.is_nil(done)
        assert.matches("pg_control", err.message)
        assert.is_false(forgotten)
    end)
end)
