--- Recovery files: what is read, every mistake with its line, and what is written is read again.

local recovery_file = require("lib.recovery_file")

-- Of "dbid content role status host port datadir".
local function inst(text)
    local dbid, content, role, status, host, port, datadir =
        text:match("^(%d+) (-?%d+) (%a) (%a) (%S+) (%d+) (%S+)$")
    return { dbid = tonumber(dbid), content = tonumber(content), role = role, status = status,
             mode = "n", hostname = host, address = host .. "-1", port = tonumber(port),
             datadir = datadir }
end

local INSTANCES = {
    inst("1 -1 p u cdw 5432 /data/c"), inst("2 -1 m d scdw 5432 /data/c"),
    inst("3 0 p u sdw1 6000 /data/p0"), inst("4 0 m d sdw2 7000 /data/m0"),
    inst("5 1 p u sdw2 6000 /data/p1"), inst("6 1 m d sdw1 7000 /data/m1"),
    inst("7 2 p u sdw1 6001 /data/p2"), inst("8 2 m u sdw2 7001 /data/m2"),
}

local M0, M1, M2 = "sdw2|sdw2-1|7000|/data/m0", "sdw1|sdw1-1|7000|/data/m1",
    "sdw2|sdw2-1|7001|/data/m2"

local function read(text)
    local rows, problems = recovery_file.parse(text)
    local targets, more = recovery_file.resolve(rows, INSTANCES)
    for _, problem in ipairs(more) do
        table.insert(problems, problem)
    end
    return targets, problems
end

local function sound(text)
    local targets, problems = read(text)
    assert.are.same({}, problems)
    return targets
end

-- One mistake, in this line, told with these words.
local function mistake(line, words, text)
    local _, problems = read(text)
    assert.are.equal(1, #problems, table.concat(problems, "\n") .. "\nof " .. text)
    assert.matches(("line %d: "):format(line), problems[1], 1, true)
    assert.matches(words, problems[1], 1, true)
end

describe("a recovery file", function()
    it("names instances by host and address, or by address alone", function()
        local targets = sound("# first\n\n" .. M0 ..
            "\n   # indented\n\tsdw1-1|7000|/data/m1\t\r\n")
        assert.are.same({ 4, 6 }, { targets[1].row.dbid, targets[2].row.dbid })
        assert.are.same({ 3, 5 }, { targets[1].line, targets[2].line })
        assert.is_nil(targets[1].type or targets[1].to)
        assert.are.same({}, sound(""))
        assert.are.same({}, sound("\239\187\191# nothing but this\r\n"))
    end)

    it("has a type for each", function()
        local targets = sound(("I|%s\nD|sdw1-1|7000|/data/m1"):format(M0))
        assert.are.same({ "incremental", "differential" }, { targets[1].type, targets[2].type })
        assert.are.equal("full", sound("F|" .. M0)[1].type)
    end)

    it("says where one shall be", function()
        local target = sound(M0 .. "  sdw9|10.0.0.9|7100|//data/./new/")[1]
        assert.are.same({ hostname = "sdw9", address = "10.0.0.9", port = 7100,
            datadir = "/data/new" }, target.to)
        target = sound("sdw2-1|7000|/data/m0 sdw1-1|7100|/data/new")[1]
        assert.are.equal("sdw1", target.to.hostname)
        assert.are.equal("sdw9", sound("sdw2-1|7000|/data/m0 sdw9|1|/n")[1].to.hostname)
        target = sound("F|" .. M0 .. " [fe80::1]|fe80::1|7100|/data/new")[1]
        assert.are.same({ "fe80::1", "fe80::1" }, { target.to.hostname, target.to.address })
    end)

    it("may name the same place twice: then all is copied there", function()
        local target = sound(M0 .. " " .. M0)[1]
        assert.are.equal("full", target.type)
        assert.is_nil(target.to)
    end)

    it("can be run again after a part of it was carried out", function()
        assert.is_true(sound(M2)[1].is_there)
        assert.is_true(sound("sdw1|sdw1-1|7900|/old " .. M2)[1].is_there)
        local target = sound("sdw1|sdw1-1|7900|/old " .. M1)[1]
        assert.are.equal(6, target.row.dbid)
        assert.is_nil(target.to)
        assert.is_false(target.is_there)
    end)

    it("with places of different forms, or too many, or broken ones, is refused", function()
        mistake(2, "different forms: 4 and 3 fields", "#\n" .. M0 .. " sdw9|7100|/new")
        mistake(1, "3 places", M0 .. " " .. M0 .. " " .. M0)
        mistake(1, "3 places", M0 .. " sdw9|sdw9|7100|/with blank")
        mistake(1, "not 2 fields", "sdw1|7000")
        mistake(1, "not 5 fields", "D|" .. M0 .. "|x")
        mistake(1, "not 5 fields", M0 .. " F|" .. M0)
        mistake(1, "not 1 fields", "x")
        mistake(1, "the host or the address is empty", "|7000|/data/m0")
        mistake(1, "the host or the address is empty", "|sdw2-1|7000|/data/m0")
        for _, port in ipairs({ "", "x", "0", "65536", "-1", "7e3", "0x10", ("9"):rep(30) }) do
            mistake(1, ("'%s' is no port"):format(port), ("sdw2|sdw2-1|%s|/data/m0"):format(port))
        end
        for _, path in ipairs({ "", "data/m0", "/", "/data/../etc", "//", "/.", "~/x" }) do
            mistake(1, ("'%s' is no absolute path"):format(path), "sdw2|sdw2-1|7000|" .. path)
        end
        mistake(1, "control characters", "sdw2|sdw2-1|7000|/data/m0\0")
        mistake(1, "control characters", "sdw2|sdw2-1|7000|/data\27[2J/m0")
        mistake(1, "longer than", "sdw2|sdw2-1|7000|/" .. ("x"):rep(9000))
    end)

    it("with a type that does not exist is refused", function()
        mistake(1, "there is no type 'X'", "X|" .. M0)
        mistake(1, "there is no type 'X'", "X|sdw2-1|7000|/data/m0")
        mistake(1, "there is no type 'd'", "d|" .. M0)
        mistake(1, "there is no type ''", "|" .. M0)
        mistake(1, "there is no type 'full'", "full|" .. M0)
        mistake(1, "a copy to another place is a full one", "D|" .. M0 .. " sdw9|sdw9|1|/n")
        mistake(1, "a copy to another place is a full one", "I|" .. M0 .. " sdw9|sdw9|1|/n")
    end)

    it("with what is no failed mirror of the cluster is refused", function()
        mistake(2, "the cluster has no host 'sdw7'", "\nsdw7|sdw7|7000|/data/m0")
        mistake(1, "the cluster has no host 'sdw7'", "sdw7|7000|/data/m0")
        mistake(1, "no instance of the cluster has host sdw2", "sdw2|sdw2-1|7009|/data/m0")
        mistake(1, "no instance of the cluster has any host", "sdw2-1|7000|/data/m9")
        mistake(1, "no instance of the cluster has host sdw1", "sdw1|sdw2-1|7000|/data/m0")
        mistake(1, "dbid 3 is its content's primary", "sdw1|sdw1-1|6000|/data/p0")
        mistake(1, "dbid 2 is a coordinator", "scdw|scdw-1|5432|/data/c")
        mistake(1, "dbid 8 is up: moonrise movemirrors", M2 .. " sdw9|sdw9|1|/n")
    end)

    it("with one instance twice, or one place for two, is refused", function()
        mistake(3, "dbid 4 is in line 1 already", M0 .. "\n" .. M1 .. "\nF|" .. M0)
        mistake(2, "dbid 4 is in line 1 already", M0 .. "\nsdw2-1|7000|/data/m0")
        mistake(2, "port 7100 of host sdw9 is line 1's",
            M0 .. " sdw9|sdw9|7100|/a\n" .. M1 .. " sdw9|sdw9|7100|/b")
        mistake(2, "directory /a of host sdw9 is line 1's",
            M0 .. " sdw9|sdw9|7100|/a\n" .. M1 .. " sdw9|sdw9|7101|/./a/")
    end)

    it("with a place that another instance has is refused", function()
        mistake(1, "port 6000 of host sdw1 is dbid 3's", M0 .. " sdw1|sdw1-1|6000|/new")
        mistake(1, "directory /data/p2 of host sdw1 is dbid 7's",
            M0 .. " sdw1|other|7900|/data/p2/")
        mistake(1, "port 7000 of host sdw1 is dbid 6's",
            M0 .. " sdw1|sdw1-1|7000|/new\n" .. M1 .. " sdw9|sdw9|1|/n")
    end)

    it("tells all of its mistakes at once", function()
        local _, problems = read("X|" .. M0 .. "\n" .. M1 .. "\nrubbish\n" .. M1)
        assert.are.equal(3, #problems)
    end)

    it("that is written is read as it was meant", function()
        local to = { hostname = "::1", address = "fe80::1%eth0", port = 7100, datadir = "/data/n" }
        local text = recovery_file.format({
            { row = INSTANCES[4] }, { row = INSTANCES[6], to = to, type = "full" },
            { row = INSTANCES[8], why_not = "host sdw2 is not reached:\n#x" } })
        local targets = sound(text)
        assert.are.equal(2, #targets)
        assert.are.same({ 4, 6 }, { targets[1].row.dbid, targets[2].row.dbid })
        assert.are.same(to, targets[2].to)
        assert.are.equal("full", targets[2].type)
        assert.matches("\n# " .. M2 .. "\n", text, 1, true)
        assert.matches("# host sdw2 is not reached: #x\n", text, 1, true)
    end)

    it("is not written where a name would end a place", function()
        local row = inst("4 0 m d sdw2 7000 /data/with")
        row.datadir = row.datadir .. " blank"
        assert.are.same({ row }, recovery_file.unwritable({ { row = row } }))
        assert.are.same({}, recovery_file.unwritable({ { row = INSTANCES[4] } }))
    end)
end)
