local copy = require("tests.lib.copy")

local recovery = dofile("policies/recovery.lua").decide
local rebalance = dofile("policies/rebalance.lua").decide

local function failed(dbid, possible, seconds)
    local facts = { dbid = dbid, content = dbid, possible = {}, prices = {}, why = "",
                    kind = "datadir", data_bytes = 1 }
    for _, kind in ipairs(possible) do
        facts.possible[kind] = true
        facts.prices[kind] = { read_bytes = 1, send_bytes = 1, seconds = seconds }
    end
    return facts
end

local function types(answer)
    local list = {}
    for _, entry in ipairs(answer.instances) do
        table.insert(list, entry.dbid .. " " .. entry.type)
        assert.is_string(entry.reason)
    end
    return list
end

describe("recovery policy", function()
    it("takes the cheapest type that is possible, and leaves out what is not", function()
        assert.are.same({ "1 start", "2 differential", "3 full" }, types(recovery({ instances = {
            failed(1, { "start", "differential", "full" }, 1),
            failed(2, { "differential", "full" }, 1),
            failed(3, { "full" }, 1), failed(4, {}, 1) } })))
    end)

    it("works through the quickest first", function()
        assert.are.same({ "3 full", "1 full", "2 full" }, types(recovery({ instances = {
            failed(1, { "full" }, 20), failed(2, { "full" }, 30), failed(3, { "full" }, 10) } })))
    end)
end)

local function pair(content, primary_host, mirror_host, more)
    return copy({ content = content, mode = "s", mirror_status = "u", primary_host = primary_host,
                  mirror_host = mirror_host }, more)
end

describe("rebalance policy", function()
    it("hands over at most two pairs of a host at once", function()
        assert.are.same({ { 0, 1 }, { 2, 3 }, { 4 } },
            rebalance({ pairs = { pair(0, "a", "b"), pair(1, "a", "c"),
            pair(2, "d", "a"), pair(3, "a", "a"), pair(4, "a", "e") } }).waves)
    end)

    it("puts pairs of different hosts into one wave", function()
        assert.are.same({ { 0, 1, 2 } }, rebalance({ pairs = { pair(0, "a", "b"), pair(1, "c", "d"),
            pair(2, "e", "f") } }).waves)
    end)

    it("leaves out what is not in sync", function()
        assert.are.same({ { 1 } },
            rebalance({ pairs = { pair(0, "a", "b", { mode = "n" }), pair(1, "a", "b"),
            pair(2, "a", "b", { mirror_status = "d" }) } }).waves)
    end)
end)
