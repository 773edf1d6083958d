local config = require("lib.config")

local HEAD = [[
return {
    name = "sales",
    coordinator = { host = "cdw", port = 5432, datadir = "/data/coordinator/gpseg-1" },
]]

local function file(more)
    return HEAD .. more .. "\n}\n"
end

local SEGMENTS = [[
    segments = {
        { primary = { host = "sdw1", port = 6000, datadir = "/data/primary/gpseg0" },
          mirror = { host = "sdw2", port = 7000, datadir = "/data/mirror/gpseg0" } },
        { primary = { host = "sdw2", port = 6000, datadir = "/data/primary/gpseg1" } },
    },]]

local function problem(more)
    local conf, err = config.parse(file(more), "cluster.lua")
    assert.is_nil(conf)
    assert.equal("usage", err.code)
    return err.message .. "\n" .. (err.hint or "")
end

describe("config", function()
    it("reads a cluster and fills in what is left out", function()
        local conf = assert(config.parse(file(SEGMENTS ..
            "standby = { host = 'scdw', address = '10.0.0.2', port = 5432, datadir = '/d//s/' }"),
            "cluster.lua"))
        assert.equal("sales", conf.name)
        assert.equal("cdw", conf.coordinator.address)
        assert.equal("10.0.0.2", conf.standby.address)
        assert.equal("/d/s", conf.standby.datadir)
        assert.same({}, conf.pg.settings)
        assert.same({}, conf.hba)
        assert.same({}, conf.warnings)
        assert.matches("^return {\n    name", conf.text)
    end)

    it("numbers the instances as Greenplum does", function()
        local conf = assert(config.parse(file(SEGMENTS ..
            "standby = { host = 'scdw', port = 5432, datadir = '/d/s' }"), "cluster.lua"))
        local lines = {}
        for _, row in ipairs(config.instances(conf)) do
            local words = { row.dbid, row.content, row.role, row.port, row.hostname }
            lines[#lines + 1] = table.concat(words, " ")
        end
        assert.same({ "1 -1 p 5432 cdw", "2 0 p 6000 sdw1", "3 1 p 6000 sdw2", "4 0 m 7000 sdw2",
            "5 -1 m 5432 scdw" }, lines)
    end)

    it("tells a syntax error with its line", function()
        local conf, err = config.parse("return {\n  name = \n}", "cluster.lua")
        assert.is_nil(conf)
        assert.equal("usage", err.code)
        assert.matches("cluster.lua:3:", err.message, 1, true)
    end)

    it("tells an error while it runs with its line", function()
        local _, err = config.parse("local a\nreturn { name = a.b }", "cluster.lua")
        assert.matches("cluster.lua:2:", err.message, 1, true)
    end)

    it("runs nothing of the system", function()
        local _, err = config.parse("return { name = os.getenv('HOME') }", "cluster.lua")
        assert.matches("os", err.message, 1, true)
        _, err = config.parse("while true do end", "cluster.lua")
        assert.is_truthy(err)
    end)

    local cases = {
        { "a missing port", "segments[1].mirror.port: is missing",
            [[segments = { { primary = { host = "a", port = 1, datadir = "/a" },
                mirror = { host = "b", datadir = "/b" } } }]] },
        { "an unknown key, with what was meant", "segments[1].primary.prot: unknown key (port?)",
            [[segments = { { primary = { host = "a", port = 1, prot = 1, datadir = "/a" } } }]] },
        { "an unknown key at the top", "hosts: unknown key", SEGMENTS .. "hosts = {}" },
        { "no segments", "segments: is missing", "" },
        { "a port that is none",
            "segments[1].primary.port: wants a port from 1 to 65535, not '70000'",
            [[segments = { { primary = { host = "a", port = 70000, datadir = "/a" } } }]] },
        { "a relative directory", "segments[1].primary.datadir: wants an absolute path",
            [[segments = { { primary = { host = "a", port = 1, datadir = "a/../b" } } }]] },
        { "a hole in a list", "segments",
            [[segments = { [2] = { primary = { host = "a", port = 1, datadir = "/a" } } }]] },
        { "a value instead of a table", "pg: wants a table, not '15'", SEGMENTS .. "pg = 15" },
        { "a setting that is not the user's", "pg.settings.port: is not set here",
            SEGMENTS .. "pg = { settings = { port = 1 } }" },
        { "a setting that breaks recoveries", "pg.settings.full_page_writes: recoveries",
            SEGMENTS .. "pg = { settings = { full_page_writes = false } }" },
        { "a value with a line in it", "pg.settings.a: wants a text",
            SEGMENTS .. [[pg = { settings = { a = "b\nc" } }]] },
        { "the same port on one host", "segments[2].primary.port: segments[1].primary has port 1",
            [[segments = { { primary = { host = "a", port = 1, datadir = "/a" } },
                { primary = { host = "a", port = 1, datadir = "/b" } } }]] },
        { "the same directory on one host",
            "segments[2].primary.datadir: segments[1].primary has /a",
            [[segments = { { primary = { host = "a", port = 1, datadir = "/a/" } },
                { primary = { host = "a", port = 2, datadir = "/a" } } }]] },
        { "a directory in another's",
            "segments[2].primary.datadir: one of it and segments[1].primary",
            [[segments = { { primary = { host = "a", port = 1, datadir = "/a" } },
                { primary = { host = "a", port = 2, datadir = "/a/b" } } }]] },
        { "a certificate without its key", "tls.key: is missing",
            SEGMENTS .. "tls = { cert = '/c' }" },
        { "a setting of the watcher that does not exist", "watch.grace: unknown key",
            SEGMENTS .. "watch = { grace = 3 }" },
    }
    for _, case in ipairs(cases) do
        it("refuses " .. case[1], function()
            assert.matches(case[2], problem(case[3]), 1, true)
        end)
    end

    it("lists every mistake at once", function()
        local text = problem([[segments = { { primary = { host = "a", datadir = "/a" } },
            { primary = { port = 1, datadir = "/b" } } }]])
        assert.matches("segments[1].primary.port: is missing", text, 1, true)
        assert.matches("segments[2].primary.host: is missing", text, 1, true)
    end)

    it("warns of a mirror on its primary's host and of commits that do not wait", function()
        local conf = assert(config.parse(file([[
            pg = { settings = { synchronous_commit = "local" } },
            segments = { { primary = { host = "a", port = 1, datadir = "/a" },
                mirror = { host = "a", port = 2, datadir = "/b" } } }]]), "cluster.lua"))
        assert.matches("synchronous_commit is 'local'", conf.warnings[1], 1, true)
        assert.matches("segments[1].mirror: is on its primary's host", conf.warnings[2], 1, true)
    end)
end)
