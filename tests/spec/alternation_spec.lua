--- What tells two instances that acknowledge at once from a change of roles.
local alternation = require("tests.lib.alternation")

local function acks(text)
    local list = {}
    for dbid, begun, done in text:gmatch("(%d):(%d+)-(%d+)") do
        table.insert(list,
            { dbid = tonumber(dbid), begun = tonumber(begun), done = tonumber(done) })
    end
    return list
end

describe("alternation", function()
    it("counts each change of who acknowledges", function()
        assert.are.equal(0, alternation.count({}))
        assert.are.equal(0, alternation.count(acks("2:1-2 2:3-4")))
        assert.are.equal(1, alternation.count(acks("2:1-2 3:3-4 3:5-6")))
        assert.are.equal(2, alternation.count(acks("2:1-2 3:3-4 2:5-6")))
    end)

    it("does not count an answer that comes late", function()
        assert.are.equal(1, alternation.count(acks("2:1-2 3:4-5 2:3-9 3:6-7")))
    end)

    it("counts one that acknowledges what was begun after the other had", function()
        assert.are.equal(3, alternation.count(acks("2:1-2 3:4-5 2:6-7 3:8-9")))
    end)
end)
