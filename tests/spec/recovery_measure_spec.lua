--- What an examination of a failed mirror asks the hosts for, and how long it waits for that.
local recovery = require("lib.recovery")

describe("the examination of a failed mirror", function()
    it("has minutes to measure the primary, and does not measure the mirror", function()
        local asked = {}
        local agents = {}
        function agents.inspect(_, inst, args, options)
            asked[inst.dbid] = { measure = args ~= nil and args.measure or false,
                timeout_ms = options and options.timeout_ms }
            return { stopped = true, kind = "datadir" }
        end
        recovery.examine({ agents = agents }, { content = 0,
            primary = { dbid = 2, content = 0, hostname = "h", port = 1, datadir = "/p" },
            mirror = { dbid = 3, content = 0, hostname = "h", port = 2, datadir = "/m" } })
        assert.is_true(asked[2].measure)
        assert.is_true(asked[2].timeout_ms >= 300000)
        assert.is_false(asked[3].measure)
    end)
end)
