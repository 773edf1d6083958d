local pauses = require("lib.pauses")

local INSTANCES = {
    { content = -1, hostname = "cdw" }, { content = -1, hostname = "scdw" },
    { content = 0, hostname = "sdw1" }, { content = 0, hostname = "sdw2" },
    { content = 1, hostname = "sdw2" }, { content = 1, hostname = "sdw3" },
}

describe("pauses", function()
    it("are of a content, a host or the cluster", function()
        local cases = {
            { nil, "the cluster" }, { "0", "content 0" }, { "-1", "content -1" },
            { "sdw3", "host sdw3" },
        }
        for _, case in ipairs(cases) do
            assert.equal(case[2], pauses.scope(assert(pauses.parse(case[1], INSTANCES))))
        end
    end)

    it("are not of what the cluster does not have", function()
        local cases = {
            { "7", "the cluster has no content 7; it has -1, 0, 1" },
            { "sdw9", "the cluster has no instance on host sdw9; its hosts are cdw, scdw, sdw1, " ..
                "sdw2, sdw3" },
        }
        for _, case in ipairs(cases) do
            local scope, err = pauses.parse(case[1], INSTANCES)
            assert.is_nil(scope)
            assert.equal("usage", err.code)
            assert.equal(case[2], err.message)
        end
    end)

    it("are known by their scope", function()
        assert.is_true(pauses.same({ content = 0, reason = "x" }, { content = 0 }))
        assert.is_false(pauses.same({ content = 0 }, {}))
        assert.is_false(pauses.same({ hostname = "sdw1" }, { content = 0 }))
    end)

    it("hold each pair that has an instance where they are", function()
        local host = { hostname = "sdw2" }
        assert.is_true(pauses.covers(host, { content = 0 }, INSTANCES))
        assert.is_true(pauses.covers(host, { content = 1 }, INSTANCES))
        assert.is_false(pauses.covers(host, { content = -1 }, INSTANCES))
        assert.is_true(pauses.covers(host, { hostname = "sdw1" }, INSTANCES))
        assert.is_true(pauses.covers({}, { content = -1 }, INSTANCES))
        assert.is_true(pauses.covers({ content = 0 }, { hostname = "sdw2" }, INSTANCES))
        assert.is_false(pauses.covers({ content = 0 }, { hostname = "sdw3" }, INSTANCES))
        assert.is_false(pauses.covers({ content = 0 }, { content = 1 }, INSTANCES))
    end)
end)
