local file = require("lib.mirror_file")
local recovery_file = require("lib.recovery_file")

local INSTANCES = {
    { hostname = "sdw1", address = "sdw1-1" }, { hostname = "sdw1", address = "sdw1-2" },
    { hostname = "sdw2", address = "10.0.0.2" }, { hostname = "::1", address = "127.0.0.1" },
    { hostname = "localhost", address = "127.0.0.1" },
}

describe("mirror_file.parse", function()
    it("reads Greenplum's rows, and rows with a host", function()
        local rows = assert(file.parse("# where they go\n\n0|sdw1-1|52001|/gpdata/m1/gp0\n" ..
            " 1 | sdw2 | 10.0.0.2 | 52002 | /gpdata//m2/gp1/ \r\n12|[fe80::1]|1|/x\n", "f"))
        assert.are.same({
            { line = 3, content = 0, address = "sdw1-1", port = 52001, datadir = "/gpdata/m1/gp0" },
            { line = 4, content = 1, hostname = "sdw2", address = "10.0.0.2", port = 52002,
              datadir = "/gpdata/m2/gp1" },
            { line = 5, content = 12, address = "fe80::1", port = 1, datadir = "/x" },
        }, rows)
        assert.are.same({}, file.parse("# nothing\n\n", "f"))
    end)

    it("tells a mistake with its line", function()
        for text, words in pairs({
            ["0|sdw1|7000"] = "not 3 fields", ["x"] = "not 1 field$",
            ["0|a|b|c|1|/d"] = "not 6 fields", ["-1|sdw1|7000|/d"] = "'-1' is no content",
            ["one|sdw1|7000|/d"] = "'one' is no content", ["|sdw1|7000|/d"] = "'' is no content",
            ["0|sd w1|7000|/d"] = "'sd w1' is no host", ["0||7000|/d"] = "the address is empty",
            ["0|-x|7000|/d"] = "'%-x' is no host", ["0|$(x)|a|7000|/d"] = "is no host",
            ["0|sdw1|0|/d"] = "'0' is no port", ["0|sdw1|65536|/d"] = "'65536' is no port",
            ["0|sdw1|7000|/a\1b"] = "control characters",
            ["0|sdw1|7e3|/d"] = "'7e3' is no port", ["0|sdw1|7000|d"] = "'d' is no absolute path",
            ["0|sdw1|7000|/"] = "is no absolute path", ["0|sdw1|7000|/a/../b"] = "is no absolute",
            ["0|sdw1|7000|/a'b"] = "is no absolute path",
            ["7|sdw1|7000|/d"] = "content 7 is in line 2 already",
        }) do
            local rows, err = file.parse("# a comment\n7|sdw9|7000|/d\n" .. text .. "\n", "f.conf")
            assert.is_nil(rows, text)
            assert.are.equal("usage", err.code)
            assert.matches("line 3 of f.conf: ", err.message, 1, true)
            assert.matches(words, err.message)
        end
    end)
end)

describe("mirror_file.format", function()
    it("writes what parse reads as the same places", function()
        local places = {
            { content = 0, hostname = "sdw1", address = "sdw1-1", port = 1, datadir = "/a" },
            { content = 1, hostname = "localhost", address = "127.0.0.1", port = 2,
              datadir = "/b" },
            { content = 2, hostname = "::1", address = "127.0.0.1", port = 3, datadir = "/c" },
            { content = 3, hostname = "new", address = "fe80::1", port = 4, datadir = "/d" },
        }
        local text = file.format(places, INSTANCES)
        local read = assert(file.parse(text, "f"))
        for i, row in ipairs(read) do
            assert.are.same(places[i], { content = row.content, address = row.address,
                hostname = recovery_file.host(INSTANCES, row), port = row.port,
                datadir = row.datadir })
        end
        assert.are.equal(#places, #read)
        assert.are.equal("# content|address|port|directory\n0|sdw1-1|1|/a\n" ..
            "1|localhost|127.0.0.1|2|/b\n2|127.0.0.1|3|/c\n3|new|[fe80::1]|4|/d\n", text)
    end)
end)
